/*
 * The part that every target needs, and main() for where there is no libFuzzer.
 *
 * The mutations of main() are simple ones: they keep the targets honest in every test run and find
 * what was broken since.  Looking for the unknown is libFuzzer's part.
 */
#include "driver.h"

#include "base/memory.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);

/* xorshift64*: the same everywhere. */
uint32_t driver_random(uint32_t below)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t) ((state * UINT64_C(0x2545f4914f6cdd1d)) >> 33) % (below ? below : 1);
}

void driver_seed(uint64_t seed)
{
    state = seed ^ UINT64_C(0x9e3779b97f4a7c15);
    if (state == 0)
        state = 1;
}

static void insert(struct buf *buf, size_t at, const char *what, size_t len)
{
    buf_add_bytes(buf, what, len); /* for the room */
    memmove(buf->data + at + len, buf->data + at, buf->len - len - at);
    memcpy(buf->data + at, what, len);
}

static void cut(struct buf *buf, size_t at, size_t len)
{
    len = len < buf->len - at ? len : buf->len - at;
    memmove(buf->data + at, buf->data + at + len, buf->len - at - len);
    buf->len -= len;
    buf->data[buf->len] = '\0';
}

static void mutate_once(struct buf *buf, const char *const *words)
{
    static const char telling[] =
        "\"\\{}[],:0129-.eutfnNKORTUDIBCM\x00\x01\x7f\x80\xc3\xff\xfe\xe0";
    size_t at = driver_random((uint32_t) buf->len + 1);
    char with = telling[driver_random(sizeof(telling) - 1)];
    uint32_t nwords = 0;

    while (words != NULL && words[nwords] != NULL)
        nwords++;
    switch (at == buf->len ? 4 + driver_random(2) : driver_random(6)) {
    case 0:
        buf->data[at] = with;
        break;
    case 1:
        buf->data[at] ^= (char) (1 << driver_random(8));
        break;
    case 2:
        cut(buf, at, 1 + driver_random(4));
        break;
    case 3: { /* a piece again */
        char piece[16];
        size_t len = 1 + driver_random(sizeof(piece));

        len = len < buf->len - at ? len : buf->len - at;
        memcpy(piece, buf->data + at, len);
        insert(buf, driver_random((uint32_t) buf->len), piece, len);
        break;
    }
    case 4:
        insert(buf, at, &with, 1);
        break;
    default:
        if (nwords > 0) {
            const char *word = words[driver_random(nwords)];

            insert(buf, at, word, strlen(word));
        }
    }
}

void driver_mutate(struct buf *buf, const char *const *words)
{
    for (uint32_t edits = 1 + driver_random(3); edits > 0; edits--)
        mutate_once(buf, words);
}

char *driver_text(const uint8_t *data, size_t size)
{
    size_t len = strnlen((const char *) data, size);
    char *text = memory_resize(NULL, len + 1);

    memcpy(text, data, len);
    text[len] = '\0';
    return text;
}

char *driver_line(char **rest)
{
    char *line = *rest, *end = line ? strchr(line, '\n') : NULL;

    *rest = end ? end + 1 : NULL;
    if (end != NULL)
        *end = '\0';
    return line;
}

#ifndef TAILWATER_LIBFUZZER

#define MAX_PREFIXES 600

static struct buf *inputs;
static size_t ninputs;

static void add_input(const struct buf *buf)
{
    inputs = memory_resize(inputs, (ninputs + 1) * sizeof(*inputs));
    inputs[ninputs] = (struct buf){0};
    buf_add_bytes(&inputs[ninputs++], buf_text(buf), buf->len);
}

/* An exact copy, so that AddressSanitizer sees a read past the end. */
static void run(const char *data, size_t len)
{
    uint8_t *copy = memory_resize(NULL, len > 0 ? len : 1);

    if (len > 0)
        memcpy(copy, data, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static void read_file(const char *path)
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
    add_input(&buf);
}

static void read_path(const char *path)
{
    struct dirent **entries;
    struct stat status;
    char name[4096];
    int count;

    if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode)) {
        read_file(path);
        return;
    }
    count = scandir(path, &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.')
            read_file(name);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

static void write_file(const char *path, const void *data, size_t len)
{
    FILE *out = fopen(path, "wb");

    if (out == NULL || fwrite(data, 1, len, out) != len || fclose(out) != 0) {
        perror(path);
        exit(1);
    }
}

/* libFuzzer's form of a dictionary: one quoted piece a line. */
static void write_words(const char *path)
{
    _cleanup_buf_ struct buf text = {0};

    for (const char *const *word = fuzz_target.words; word != NULL && *word != NULL; word++) {
        buf_add_char(&text, '"');
        for (const char *p = *word; *p != '\0'; p++)
            if (*p == '"' || *p == '\\' || *p < 0x20 || *p > 0x7e)
                buf_printf(&text, "\\x%02x", (unsigned char) *p);
            else
                buf_add_char(&text, *p);
        buf_add(&text, "\"\n");
    }
    write_file(path, buf_text(&text), text.len);
}

static void write_seeds(const char *folder)
{
    char path[4096];

    for (size_t i = 0; i < ninputs; i++) {
        snprintf(path, sizeof(path), "%s/seed%02zu", folder, i);
        write_file(path, buf_text(&inputs[i]), inputs[i].len);
    }
}

static void replay(long rounds)
{
    for (size_t i = 0; i < ninputs; i++) {
        run(buf_text(&inputs[i]), inputs[i].len);
        for (size_t len = 0; len < inputs[i].len && inputs[i].len <= MAX_PREFIXES; len++)
            run(inputs[i].data, len);
    }
    for (long i = 0; i < rounds && ninputs > 0; i++) {
        const struct buf *from = &inputs[driver_random((uint32_t) ninputs)];
        _cleanup_buf_ struct buf input = {0};

        buf_add_bytes(&input, buf_text(from), from->len);
        if (fuzz_target.mutate != NULL)
            fuzz_target.mutate(&input);
        else
            driver_mutate(&input, fuzz_target.words);
        run(buf_text(&input), input.len);
    }
}

int main(int argc, char **argv)
{
    struct buf seed = {0};
    long rounds = 0;

    for (size_t i = 0; fuzz_target.seed(i, &seed); i++) {
        add_input(&seed);
        buf_clear(&seed);
    }
    buf_release(&seed);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
            rounds = strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc)
            write_seeds(argv[++i]);
        else if (strcmp(argv[i], "--words") == 0 && i + 1 < argc)
            write_words(argv[++i]);
        else
            read_path(argv[i]);
    }
    replay(rounds);
    for (size_t i = 0; i < ninputs; i++)
        buf_release(&inputs[i]);
    free(inputs);
    return 0;
}

#endif
