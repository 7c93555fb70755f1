/*
 * Inputs made of messages: reading them, writing them, changing them.  What a stream does behind
 * the decoder is pipe.c's part.
 */
#include "stream.h"

#include "fixture.h"
#include "pipe.h"
#include "session.h"

#include <string.h>

static const struct decoder_config config = {.prefix = "tailwater", .publication = "p"};

/* The next message of an input; false at its end. */
static bool next_message(struct bytes *in, const unsigned char **ret_data, size_t *ret_len)
{
    size_t len = bytes_u32(in);

    if (in->bad)
        return false;
    *ret_len = len < bytes_left(in) ? len : bytes_left(in);
    *ret_data = bytes_take(in, *ret_len);
    return true;
}

void stream_run(const struct decoder_ops *ops, const uint8_t *data, size_t size)
{
    struct bytes in = bytes_of(data, size);
    struct session session = session_start(ops, &config);
    struct pipe *pipe = pipe_new(ops, &config);
    const unsigned char *message;
    size_t len;

    while (next_message(&in, &message, &len))
        if (session_feed(&session, message, len))
            pipe_meet(pipe, message, len, &session.change);
    session_end(&session);
    /* Again, with the tables that the stream was about. */
    pipe_start(pipe);
    session = session_start(ops, &config);
    in = bytes_of(data, size);
    while (next_message(&in, &message, &len))
        if (session_feed(&session, message, len))
            pipe_take(pipe, &session.change);
    pipe_free(pipe);
    session_end(&session);
}

/* ---- seeds ---- */

static struct fixture fixture;

void stream_load(const char *file)
{
    if (fixture.nscenarios == 0)
        fixture = fixture_load(file);
}

static void add_message(struct buf *buf, const void *data, size_t len)
{
    buf_add_u32(buf, (uint32_t) len);
    buf_add_bytes(buf, data, len);
}

bool stream_seed(size_t i, struct buf *out)
{
    if (i >= (size_t) fixture.nscenarios)
        return false;
    for (int m = 0; m < fixture.scenarios[i].nmessages; m++)
        add_message(out, fixture.scenarios[i].messages[m].data,
                    fixture.scenarios[i].messages[m].len);
    return true;
}

/* ---- mutations ---- */

/* At most this many messages of a stream, from its beginning on. */
#define MAX_MESSAGES 32

struct pieces {
    const unsigned char *data[MAX_MESSAGES];
    size_t len[MAX_MESSAGES];
    uint32_t count;
};

static struct pieces split(const struct buf *input)
{
    struct bytes in = bytes_of(buf_text(input), input->len);
    struct pieces pieces = {0};

    while (pieces.count < MAX_MESSAGES &&
           next_message(&in, &pieces.data[pieces.count], &pieces.len[pieces.count]))
        pieces.count++;
    return pieces;
}

static void mutate_bytes(struct buf *buf)
{
#ifdef TAILWATER_LIBFUZZER
    size_t LLVMFuzzerMutate(uint8_t * data, size_t size, size_t max_size);

    if (driver_random(2) == 0) {
        buf_grow(buf, 256);
        buf->len = LLVMFuzzerMutate((uint8_t *) buf->data, buf->len, buf->len + 255);
        buf->data[buf->len] = '\0';
        return;
    }
#endif
    driver_mutate(buf, fuzz_target.words);
}

static void add_mutant(struct buf *input, const struct pieces *pieces, uint32_t i)
{
    const uint32_t other = driver_random(pieces->count);
    const size_t len = pieces->len[i], other_len = pieces->len[other];
    _cleanup_buf_ struct buf buf = {0};
    size_t cut;

    switch (driver_random(7)) {
    case 0: /* drop it */
        return;
    case 1: /* cut it */
        add_message(input, pieces->data[i], driver_random((uint32_t) len + 1));
        return;
    case 2: /* another in its place, or before it */
        add_message(input, pieces->data[other], other_len);
        if (driver_random(2))
            add_message(input, pieces->data[i], len);
        return;
    case 3: /* the beginning of one, the end of the other */
        cut = driver_random((uint32_t) len + 1);
        buf_add_bytes(&buf, pieces->data[i], cut);
        cut = driver_random((uint32_t) other_len + 1);
        buf_add_bytes(&buf, pieces->data[other] + cut, other_len - cut);
        break;
    default:
        buf_add_bytes(&buf, pieces->data[i], len);
        mutate_bytes(&buf);
    }
    add_message(input, buf_text(&buf), buf.len);
}

void stream_mutate(struct buf *input)
{
    const struct pieces pieces = split(input);
    struct buf mutant = {0};

    for (uint32_t i = 0; i < pieces.count; i++)
        if (driver_random(6) == 0)
            add_mutant(&mutant, &pieces, i);
        else
            add_message(&mutant, pieces.data[i], pieces.len[i]);
    buf_release(input);
    *input = mutant;
}

size_t stream_custom(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    _cleanup_buf_ struct buf input = {0};

    driver_seed(seed);
    buf_add_bytes(&input, data, size);
    stream_mutate(&input);
    if (input.len > max_size)
        input.len = max_size;
    if (input.len > 0)
        memcpy(data, input.data, input.len);
    return input.len;
}
