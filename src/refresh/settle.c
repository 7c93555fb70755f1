/*
 * The first attempt takes all keys at once, under a savepoint.  Only after a failure are they put
 * down in their order and numbered, so that halves are neighbours, and tried in pieces: for one bad
 * key of n that is 2 log n further statements, of half the size each time.
 *
 * Where very many keys fail it is no matter of keys, whatever the SQLSTATE says, and trying each of
 * them would take for ever: after MAX_FAILED the whole is a failure.
 */
#include "refresh/settle.h"

#include "pg/codec.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAX_FAILED 1000

struct settling {
    struct pg *mirror;
    const struct target *target;
    const struct settle_options *options;
    struct recompute_counts *counts;
    int64_t nfailed;
};

/* Class 42, what the query is; 53, 55, 57, 58, XX, how the server is; 08, 40: try again. */
bool settle_is_of_key(const struct error *err)
{
    static const char classes[][3] = {"21", "22", "23", "2F", "2H", "38", "39", "44", "54", "P0"};

    for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++)
        if (strncmp(err->sqlstate, classes[i], 2) == 0)
            return true;
    return false;
}

static void add_names(struct buf *sql, const struct target *target)
{
    for (int i = 0; i < target->nkeys; i++) {
        buf_add(sql, i > 0 ? ", " : "");
        pg_add_ident(sql, target->keys[i].name);
    }
}

/* All keys, straight from where they come from. */
static bool choose_all(struct settling *s, int64_t *ret_count, struct error *err)
{
    const struct settle_options *options = s->options;
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;

    buf_printf(&sql, "insert into %s select * from %s k", s->target->chosen, options->keys);
    if (!pg_query(s->mirror, buf_text(&sql), options->param != NULL, &options->param, &done, err))
        return false;
    *ret_count = pg_affected(done);
    return true;
}

/* The same, numbered. */
static bool fill_window(struct settling *s, int64_t *ret_count, struct error *err)
{
    const struct settle_options *options = s->options;
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;

    buf_printf(&sql, "insert into %s select row_number() over (order by ", s->target->window);
    for (int i = 0; i < s->target->nkeys; i++)
        buf_printf(&sql, "%sk.k%d", i > 0 ? ", " : "", i);
    buf_printf(&sql, "), k.* from %s k(", options->keys);
    for (int i = 0; i < s->target->nkeys; i++)
        buf_printf(&sql, "%sk%d", i > 0 ? ", " : "", i);
    buf_add(&sql, ")");
    if (!target_make_rest(s->mirror, s->target, err) ||
        !pg_query(s->mirror, buf_text(&sql), options->param != NULL, &options->param, &done, err))
        return false;
    *ret_count = pg_affected(done);
    return true;
}

/* The keys first … last of the window. */
static bool choose(struct settling *s, int64_t first, int64_t last, struct error *err)
{
    const struct target *target = s->target;
    _cleanup_buf_ struct buf sql = {0};

    buf_printf(&sql, "truncate %s, %s, %s; insert into %s select ", target->chosen, target->rows,
               target->changes, target->chosen);
    add_names(&sql, target);
    buf_printf(&sql, " from %s where tailwater_n between %" PRId64 " and %" PRId64, target->window,
               first, last);
    target->memory->analyzed = -1;
    return pg_exec(s->mirror, buf_text(&sql), err);
}

static bool recompute(struct settling *s, int64_t nkeys, struct error *err)
{
    struct recompute_counts counts = {0};

    if (!recompute_all(s->mirror, s->target, NULL, nkeys, &counts, err))
        return false;
    s->counts->keys += nkeys;
    s->counts->inserted += counts.inserted;
    s->counts->updated += counts.updated;
    s->counts->deleted += counts.deleted;
    return true;
}

/* The key's row stays as it was. */
static bool note_failure(struct settling *s, int64_t n, const struct error *failure,
                         struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;
    char number[24], attempts[16];
    const char *params[] = {
        s->target->fact->name, number,          s->options->is_retry ? "t" : "f", attempts,
        failure->sqlstate,     failure->message};

    snprintf(number, sizeof(number), "%" PRId64, n);
    snprintf(attempts, sizeof(attempts), "%d", s->options->max_attempts);
    buf_add(&sql, "select tailwater.note_failure($1, array[");
    for (int i = 0; i < s->target->nkeys; i++) {
        buf_add(&sql, i > 0 ? ", " : "");
        pg_add_ident(&sql, s->target->keys[i].name);
        buf_add(&sql, "::text");
    }
    buf_printf(&sql, "], $3::boolean, $4::integer, $5, $6) from %s where tailwater_n = $2::bigint",
               s->target->window);
    s->nfailed++;
    return pg_query(s->mirror, buf_text(&sql), 6, params, &done, err);
}

/* Undone; *err where it is no matter of keys. */
static bool give_up_piece(struct settling *s, const struct error *failure, struct error *err)
{
    if (pg_is_broken(s->mirror) || !settle_is_of_key(failure)) {
        *err = *failure;
        return false;
    }
    return pg_exec(s->mirror,
                   "rollback to savepoint tailwater_piece; release savepoint tailwater_piece", err);
}

static bool halve(struct settling *s, int64_t first, int64_t last, const struct error *failure,
                  struct error *err);

static bool settle_piece(struct settling *s, int64_t first, int64_t last, struct error *err)
{
    struct error failure;

    if (!pg_exec(s->mirror, "savepoint tailwater_piece", err))
        return false;
    if (choose(s, first, last, &failure) && recompute(s, last - first + 1, &failure))
        return pg_exec(s->mirror, "release savepoint tailwater_piece", err);
    return give_up_piece(s, &failure, err) && halve(s, first, last, &failure, err);
}

/* What failed as a whole, in two; one key alone is noted. */
static bool halve(struct settling *s, int64_t first, int64_t last, const struct error *failure,
                  struct error *err)
{
    const int64_t middle = first + (last - first) / 2;

    if (first < last)
        return settle_piece(s, first, middle, err) && settle_piece(s, middle + 1, last, err);
    if (s->nfailed < MAX_FAILED)
        return note_failure(s, first, failure, err);
    *err = *failure;
    return error_wrap(err, "more than %d keys fail", MAX_FAILED);
}

/* *ret_is_whole: none of them failed, and target->chosen still holds them all. */
static bool settle(struct settling *s, bool *ret_is_whole, struct error *err)
{
    struct error failure;
    int64_t nkeys;

    *ret_is_whole = true;
    if (!pg_exec(s->mirror, "savepoint tailwater_piece", err))
        return false;
    if (choose_all(s, &nkeys, &failure) && (nkeys == 0 || recompute(s, nkeys, &failure)))
        return pg_exec(s->mirror, "release savepoint tailwater_piece", err);
    *ret_is_whole = false;
    return give_up_piece(s, &failure, err) && fill_window(s, &nkeys, err) &&
           halve(s, 1, nkeys, &failure, err);
}

/* Failures of the keys that were not noted just now. */
static bool forget_failures(struct settling *s, const char *keys, struct error *err)
{
    const struct target *target = s->target;
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;
    const char *params[] = {target->fact->name};

    buf_printf(&sql,
               "delete from tailwater.refresh_failure f using %s w where f.fact = $1 and "
               "f.failed_at < now()",
               keys);
    for (int i = 0; i < target->nkeys; i++) {
        buf_add(&sql, " and w.");
        pg_add_ident(&sql, target->keys[i].name);
        buf_printf(&sql, " = f.key[%d]::%s", i + 1, target->keys[i].type);
    }
    return pg_query(s->mirror, buf_text(&sql), 1, params, &done, err);
}

static bool has_failures(struct settling *s, bool *ret_has, struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;
    const char *params[] = {s->target->fact->name};

    if (!pg_query_row(s->mirror,
                      "select exists (select from tailwater.refresh_failure where fact = $1)", 1,
                      params, &row, err))
        return false;
    *ret_has = pg_bool(row, 0, 0);
    return true;
}

bool settle_keys(struct pg *mirror, const struct target *target,
                 const struct settle_options *options, struct recompute_counts *counts,
                 int64_t *ret_failed, struct error *err)
{
    struct settling s = {.mirror = mirror, .target = target, .options = options, .counts = counts};
    bool is_whole, has;

    if (!settle(&s, &is_whole, err) || !has_failures(&s, &has, err) ||
        (has && !forget_failures(&s, is_whole ? target->chosen : target->window, err)))
        return false;
    *ret_failed = s.nfailed;
    return true;
}
