/*
 * The configuration under hostile files: whatever is in one, it is read or refused, with a place.
 *
 * fuzz_config [ROUNDS] [FILE]... replays the files below, every prefix of them, ROUNDS mutations
 * from a fixed seed, then the files given.  fuzz_config 0 --seeds FOLDER writes them for libFuzzer.
 */
#include "config/config.h"

#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask_patterns(const struct config *config)
{
    static const char *const names[] = {"public", "orders", "Order Lines", "a*b", "\xc3\xa9", ""};
    size_t n = sizeof(names) / sizeof(names[0]);

    for (int i = 0; i < config->ntables; i++)
        for (size_t j = 0; j < n * n; j++)
            (void) config_table_matches(&config->tables[i], names[j / n], names[j % n]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct config config;
    struct error err = {0};

    if (config_parse("fuzz.yaml", (const char *) data, size, &arena, &config, &err))
        ask_patterns(&config);
    else if (err.kind != ERROR_CONFIG || strncmp(err.message, "fuzz.yaml:", 10) != 0)
        abort();
    arena_release(&arena);
    return 0;
}

#ifndef TAILWATER_LIBFUZZER

static const char *const seeds[] = {
    "source: {conninfo: \"host=prod dbname=shop\"}\n"
    "mirror: {conninfo: \"host=dwh dbname=reports\"}\n"
    "tables: [public.*]\n",

    "pipeline: shop_2\n"
    "source:\n"
    "  conninfo: host=s password='${HOME}' user=${HOME} options=$${x}\n"
    "  plugin: pgoutput\n"
    "  slot: other\n"
    "  publication: Some Publication\n"
    "  heartbeat: 500ms\n"
    "  wal_guard: {warn: 100MB, critical: 100 MiB}\n"
    "  max_read_rate: 20MB/s\n"
    "  failover: true\n"
    "  start_timeout: 2min\n"
    "  decode_memory: 64kB\n"
    "mirror:\n"
    "  conninfo: 'postgresql://u:p@h/d'\n"
    "  table_schema: \"m_{schema}\"\n"
    "  indexes: [a_idx, \"B idx\"]\n"
    "  readers: [report, \"Big Boss\"]\n"
    "  fillfactor: 70\n"
    "tables: # a comment\n"
    "  - public.*\n"
    "  - '!public.\"Audit*\"'\n"
    "  - name: \"s?les.\\\"Order\\x20Lines\\\"\"\n"
    "    exclude: [note, Blob]\n"
    "    mask: {email: hash, phone: null}\n"
    "    deletes: ignore\n"
    "    truncate: stop\n"
    "    purge_after: never\n"
    "    key: [tenant, id]\n"
    "    indexes: none\n"
    "purge: {after: 7d}\n"
    "apply: {max_rows: 1, max_bytes: 3MB}\n"
    "copy: {workers: 32}\n"
    "log: {format: json, level: debug, values: true}\n",

    "a: &x [*x, !!str y]\n---\n? {b: c}\n: |\n  d\n...\n%YAML 1.1\n--- >-\n e\n",
};

#define NSEEDS (sizeof(seeds) / sizeof(seeds[0]))

static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);

/* xorshift64*: the same everywhere. */
static uint32_t next_random(uint32_t below)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t) ((state * UINT64_C(0x2545f4914f6cdd1d)) >> 33) % (below ? below : 1);
}

/* An exact copy, so that AddressSanitizer sees a read past the end. */
static void run(const char *text, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);

    if (copy == NULL)
        abort();
    memcpy(copy, text, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

/* A seed with a few pieces of YAML put in, or bytes of it doubled or left out. */
static void mutate(struct buf *out)
{
    static const char *const pieces[] = {"{",
                                         "}",
                                         "[",
                                         "]",
                                         ": ",
                                         ", ",
                                         "- ",
                                         "\n",
                                         "\n  ",
                                         "\"",
                                         "'",
                                         "\\",
                                         "#",
                                         "*",
                                         "&",
                                         "!",
                                         "?",
                                         "|",
                                         ">",
                                         "%",
                                         "@",
                                         "`",
                                         "~",
                                         "${",
                                         "}",
                                         "$${",
                                         "${HOME}",
                                         "\t",
                                         "\r",
                                         "\x7f",
                                         "\xff",
                                         "\xef\xbb\xbf",
                                         "\xc3\xa9",
                                         "\xc3",
                                         "0",
                                         "-1",
                                         "99999999999999999999",
                                         "1d",
                                         "GB",
                                         ".",
                                         "source:",
                                         "tables:",
                                         "name:",
                                         "null",
                                         "---\n",
                                         "...\n",
                                         "<<: ",
                                         "\"\\0\"",
                                         "=",
                                         "://"};
    const char *seed = seeds[next_random(NSEEDS)];
    size_t len = strlen(seed);

    buf_clear(out);
    for (size_t i = 0; i < len; i++) {
        uint32_t dice = next_random(120);

        if (dice == 0)
            buf_add(out, pieces[next_random(sizeof(pieces) / sizeof(pieces[0]))]);
        else if (dice == 1)
            i += next_random(8);
        else if (dice == 2 && i > 8)
            i -= next_random(8);
        if (i < len && out->len < 4 * len)
            buf_add_char(out, seed[i]);
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
    run(buf_text(&buf), buf.len);
}

static void write_seeds(const char *folder)
{
    for (size_t i = 0; i < NSEEDS; i++) {
        _cleanup_buf_ struct buf path = {0};
        FILE *out;

        buf_printf(&path, "%s/seed%zu.yaml", folder, i);
        out = fopen(buf_text(&path), "wb");
        if (out == NULL || fputs(seeds[i], out) < 0 || fclose(out) != 0) {
            perror(buf_text(&path));
            exit(1);
        }
    }
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 0;
    _cleanup_buf_ struct buf input = {0};

    if (argc == 4 && strcmp(argv[2], "--seeds") == 0) {
        write_seeds(argv[3]);
        return 0;
    }
    for (size_t i = 0; i < NSEEDS; i++)
        for (size_t len = 0; len <= strlen(seeds[i]); len++)
            run(seeds[i], len);
    for (long i = 0; i < rounds; i++) {
        mutate(&input);
        run(buf_text(&input), input.len);
    }
    for (int i = 2; i < argc; i++)
        run_file(argv[i]);
    return 0;
}

#endif
