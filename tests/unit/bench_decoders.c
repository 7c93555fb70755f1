/*
 * How fast the decoders are: the rows of the captured scenario "shop" (six columns, about 100
 * bytes) again and again, on one core.  Not a test; build it in a release build:
 *
 *     meson setup build --buildtype=release && ninja -C build tests/unit/bench_decoders
 *     build/tests/unit/bench_decoders [SECONDS]
 */
#include "fixture.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

/* What a receiver does at least: look at every value. */
static uint64_t look(const struct change *change)
{
    uint64_t sum = 0;

    for (int i = 0; change->relation != NULL && i < change->relation->ncolumns; i++) {
        if (change->values != NULL && change->values[i].kind == VALUE_TEXT)
            sum += change->values[i].len;
        if (change->old != NULL && change->old[i].kind == VALUE_TEXT)
            sum += change->old[i].len;
    }
    return sum;
}

static void bench(const struct decoder_ops *ops, const struct fixture_scenario *scenario,
                  enum change_kind kind, const char *name, double seconds)
{
    struct decoder *decoder = ops->create(&fixture_config);
    struct arena scratch = {0};
    struct change change;
    struct error err;
    int *rows = malloc(sizeof(*rows) * (size_t) scenario->nmessages), nrows = 0;
    uint64_t done = 0, bytes = 0, sum = 0;
    double start, took;

    /* All but the last message, a commit: so the decoder stays inside a transaction. */
    for (int i = 0; i < scenario->nmessages - 1; i++) {
        struct bytes message = bytes_of(scenario->messages[i].data, scenario->messages[i].len);

        if (!ops->decode(decoder, message, &scratch, &change, &err))
            abort();
        if (change.kind == kind)
            rows[nrows++] = i;
    }
    if (nrows == 0)
        abort();
    start = now();
    do {
        for (int i = 0; i < 100000; i++) {
            const struct fixture_message *message = &scenario->messages[rows[i % nrows]];

            arena_reset(&scratch);
            if (!ops->decode(decoder, bytes_of(message->data, message->len), &scratch, &change,
                             &err))
                abort();
            sum += look(&change);
            bytes += message->len;
        }
        done += 100000;
        took = now() - start;
    } while (took < seconds);
    printf("%-10s %-7s %6.2f M rows/s  %5.0f ns a row  %4.0f bytes a message, %4.0f of values\n",
           ops->plugin, name, (double) done / took / 1e6, took / (double) done * 1e9,
           (double) bytes / (double) done, (double) sum / (double) done);
    free(rows);
    arena_release(&scratch);
    ops->destroy(decoder);
}

int main(int argc, char **argv)
{
    static struct fixture pgoutput, wal2json;
    double seconds = argc > 1 ? atof(argv[1]) : 0.5;
    static const struct {
        enum change_kind kind;
        const char *name;
    } kinds[] = {{CHANGE_INSERT, "insert"}, {CHANGE_UPDATE, "update"}, {CHANGE_DELETE, "delete"}};

    pgoutput = fixture_load("pgoutput.txt");
    wal2json = fixture_load("wal2json.txt");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        bench(&decoder_pgoutput, fixture_find(&pgoutput, "shop"), kinds[i].kind, kinds[i].name,
              seconds);
        bench(&decoder_wal2json, fixture_find(&wal2json, "shop"), kinds[i].kind, kinds[i].name,
              seconds);
    }
    return 0;
}
