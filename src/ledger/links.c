#include "ledger/links.h"

#include "pg/codec.h"

void links_take(struct links *links, int nlinks, const struct pg_result *rows, int column,
                int begin, int end)
{
    links->nlinks = nlinks;
    links->count = 0;
    for (int i = 0; i < nlinks; i++) {
        buf_clear(&links->arrays[i]);
        codec_text_array_begin(&links->arrays[i]);
    }
    for (int row = begin; row < end; row++) {
        if (pg_any_null(rows, row, column, nlinks))
            continue;
        for (int i = 0; i < nlinks; i++)
            codec_text_array_add(&links->arrays[i], pg_text(rows, row, column + i),
                                 (uint32_t) pg_text_len(rows, row, column + i));
        links->count++;
    }
    for (int i = 0; i < nlinks; i++) {
        codec_text_array_end(&links->arrays[i]);
        links->params[i] = buf_text(&links->arrays[i]);
    }
}

void links_release(struct links *links)
{
    for (int i = 0; i < links->nlinks; i++)
        buf_release(&links->arrays[i]);
}
