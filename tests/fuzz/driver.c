/*
 * fuzz_PLUGIN FIXTURE [ROUNDS] [FILE|FOLDER]...
 *
 * Replays the streams of a capture, then ROUNDS mutations of them from a fixed seed, then every
 * file given: inputs that a fuzzer found.  The mutations know messages: they change, cut, double,
 * drop and exchange them, and leave the stream before them whole, so that the decoder is deep
 * inside when it meets them.
 *
 * fuzz_PLUGIN FIXTURE 0 --seeds FOLDER writes the streams as inputs for libFuzzer, which has its
 * own main(); tests/fuzz/libfuzzer does all that.
 */
#include "driver.h"

#include "session.h"

static uint32_t length_at(const uint8_t *data)
{
    return (uint32_t) data[0] << 24 | (uint32_t) data[1] << 16 | (uint32_t) data[2] << 8 | data[3];
}

void driver_run(const struct decoder_ops *ops, const uint8_t *data, size_t size)
{
    static const struct decoder_config config = {.prefix = "tailwater", .publication = "p"};
    struct session session = session_start(ops, &config);

    while (size >= 4) {
        size_t len = length_at(data);

        data += 4;
        size -= 4;
        if (len > size)
            len = size;
        session_feed(&session, data, len);
        data += len;
        size -= len;
    }
    session_end(&session);
}

#ifndef TAILWATER_LIBFUZZER

#include "base/buf.h"
#include "fixture.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct fixture fixture;
static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);

/* xorshift64*: the same everywhere. */
static uint32_t next_random(uint32_t below)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t) ((state * UINT64_C(0x2545f4914f6cdd1d)) >> 33) % (below ? below : 1);
}

static void add_message(struct buf *buf, const void *data, size_t len)
{
    buf_add_u32(buf, (uint32_t) len);
    buf_add_bytes(buf, data, len);
}

static const struct fixture_message *any_message(void)
{
    const struct fixture_scenario *scenario;

    do
        scenario = &fixture.scenarios[next_random((uint32_t) fixture.nscenarios)];
    while (scenario->nmessages == 0);
    return &scenario->messages[next_random((uint32_t) scenario->nmessages)];
}

/* Overwrite, insert or remove a few bytes; what is put in are bytes that mean something. */
static void mutate_bytes(struct buf *buf)
{
    static const char telling[] =
        "\"\\{}[],:0129-.eutfnNKORTUDIBCM\x00\x01\x7f\x80\xc3\xff\xfe\xe0\xf4";

    for (uint32_t edits = 1 + next_random(3); edits > 0 && buf->len > 0; edits--) {
        size_t at = next_random((uint32_t) buf->len), n = 1 + next_random(4);
        char with = telling[next_random(sizeof(telling) - 1)];

        switch (next_random(4)) {
        case 0:
            buf->data[at] = with;
            break;
        case 1:
            buf->data[at] ^= (char) (1 << next_random(8));
            break;
        case 2:
            n = n < buf->len - at ? n : buf->len - at;
            memmove(buf->data + at, buf->data + at + n, buf->len - at - n);
            buf->len -= n;
            break;
        default:
            buf_add_char(buf, with);
            memmove(buf->data + at + 1, buf->data + at, buf->len - 1 - at);
            buf->data[at] = with;
        }
    }
}

static void add_mutant(struct buf *input, const struct fixture_message *message)
{
    const struct fixture_message *other = any_message();
    _cleanup_buf_ struct buf buf = {0};
    size_t cut;

    switch (next_random(6)) {
    case 0: /* drop it */
        return;
    case 1: /* cut it */
        add_message(input, message->data, next_random((uint32_t) message->len));
        return;
    case 2: /* another in its place, or before it */
        add_message(input, other->data, other->len);
        if (next_random(2))
            add_message(input, message->data, message->len);
        return;
    case 3: /* the beginning of one, the end of the other */
        cut = next_random((uint32_t) message->len);
        buf_add_bytes(&buf, message->data, cut);
        cut = next_random((uint32_t) other->len);
        buf_add_bytes(&buf, other->data + cut, other->len - cut);
        break;
    default:
        buf_add_bytes(&buf, message->data, message->len);
        mutate_bytes(&buf);
    }
    add_message(input, buf_text(&buf), buf.len);
}

/* At most this many messages of a stream, from its beginning on. */
#define MAX_MESSAGES 24

static void mutate(struct buf *input)
{
    const struct fixture_scenario *scenario =
        &fixture.scenarios[next_random((uint32_t) fixture.nscenarios)];
    int count = scenario->nmessages < MAX_MESSAGES ? scenario->nmessages : MAX_MESSAGES;

    buf_clear(input);
    for (int i = 0; i < count; i++) {
        const struct fixture_message *message = &scenario->messages[i];

        if (next_random(6) == 0)
            add_mutant(input, message);
        else
            add_message(input, message->data, message->len);
    }
}

static void run_file(const char *path)
{
    _cleanup_fclose_ FILE *in = fopen(path, "rb");
    _cleanup_buf_ struct buf buf = {0};
    char block[4096];
    size_t len;

    if (in == NULL) {
        perror(path);
        exit(1);
    }
    while ((len = fread(block, 1, sizeof(block), in)) > 0)
        buf_add_bytes(&buf, block, len);
    LLVMFuzzerTestOneInput((const uint8_t *) buf_text(&buf), buf.len);
}

static void run_path(const char *path)
{
    struct dirent **entries;
    struct stat status;
    char name[4096];
    int count;

    if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode)) {
        run_file(path);
        return;
    }
    count = scandir(path, &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.')
            run_file(name);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

/* One file a stream, for libFuzzer to begin with. */
static void write_seed(const char *folder, const char *name, const struct buf *buf)
{
    char path[4096];

    snprintf(path, sizeof(path), "%s/%s", folder, name);

    _cleanup_fclose_ FILE *out = fopen(path, "wb");

    if (out == NULL || fwrite(buf->data, 1, buf->len, out) != buf->len) {
        perror(path);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    long rounds = argc > 2 ? atol(argv[2]) : 0;
    const char *seeds = argc > 4 && strcmp(argv[3], "--seeds") == 0 ? argv[4] : NULL;
    _cleanup_buf_ struct buf input = {0};

    fixture = fixture_load(argc > 1 ? argv[1] : "");
    for (int i = 0; i < fixture.nscenarios; i++) {
        buf_clear(&input);
        for (int m = 0; m < fixture.scenarios[i].nmessages; m++)
            add_message(&input, fixture.scenarios[i].messages[m].data,
                        fixture.scenarios[i].messages[m].len);
        LLVMFuzzerTestOneInput((const uint8_t *) buf_text(&input), input.len);
        if (seeds != NULL)
            write_seed(seeds, fixture.scenarios[i].name, &input);
    }
    for (long i = 0; i < rounds; i++) {
        mutate(&input);
        LLVMFuzzerTestOneInput((const uint8_t *) buf_text(&input), input.len);
    }
    for (int i = seeds != NULL ? 5 : 3; i < argc; i++)
        run_path(argv[i]);
    return 0;
}

#endif
