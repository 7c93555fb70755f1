#include "mirror/notes.h"

#include <stdarg.h>
#include <stdio.h>

void notes_add(struct notes *notes, const char *format, ...)
{
    va_list args;
    char *text;
    int len;

    va_start(args, format);
    len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    text = arena_alloc(notes->arena, (size_t) len + 1);
    va_start(args, format);
    vsnprintf(text, (size_t) len + 1, format, args);
    va_end(args);
    if (notes->count == notes->size) {
        int size = notes->size ? 2 * notes->size : 8;
        const char **texts = arena_new(notes->arena, const char *, size);

        if (notes->count > 0)
            memcpy(texts, notes->texts, sizeof(*texts) * (size_t) notes->count);
        notes->texts = texts;
        notes->size = size;
    }
    notes->texts[notes->count++] = text;
}
