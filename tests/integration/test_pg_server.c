/* The libpq wrapper against a server.  Run by test_programs.py. */
#include "base/clock.h"
#include "programs.h"

#include <unistd.h>

static struct pg *pg; /* an ordinary mirror connection */

/* ---- sessions ---- */

static const char *setting(struct pg *session, const char *name)
{
    static char value[256];
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf sql = {0};
    struct error err;

    buf_printf(&sql, "SELECT current_setting('%s')", name);
    succeed(pg_query_row(session, buf_text(&sql), 0, NULL, &result, &err));
    snprintf(value, sizeof(value), "%s", pg_text(result, 0, 0));
    return value;
}

/* P9, P10: neither the role, the database, the environment nor the conninfo changes what values
 * look like; what has nothing to do with that stays the user's. */
static void P10_sessions_are_pinned(void **state)
{
    static const bool kinds[] = {false, true};
    _cleanup_buf_ struct buf conninfo = {0};
    struct error err;

    (void) state;
    succeed(pg_exec(pg,
                    "ALTER ROLE CURRENT_USER SET bytea_output = 'escape';"
                    "ALTER ROLE CURRENT_USER SET timezone = 'Asia/Kolkata';"
                    "ALTER ROLE CURRENT_USER SET extra_float_digits = 0;"
                    "ALTER ROLE CURRENT_USER SET search_path = public;"
                    "ALTER ROLE CURRENT_USER SET intervalstyle = 'iso_8601';"
                    "ALTER ROLE CURRENT_USER SET datestyle = 'SQL, DMY';"
                    "ALTER ROLE CURRENT_USER SET standard_conforming_strings = off;"
                    "ALTER ROLE CURRENT_USER SET quote_all_identifiers = on;"
                    "ALTER ROLE CURRENT_USER SET statement_timeout = '1s'",
                    &err));
    buf_printf(&conninfo, "%s options='-c bytea_output=escape -c geqo=off' client_encoding=LATIN1",
               conninfo_of("ADMIN"));
    setenv("PGTZ", "Asia/Kolkata", 1);
    setenv("PGDATESTYLE", "German", 1);
    for (int i = 0; i < 2; i++) {
        _cleanup_pg_ struct pg *session = NULL;
        struct pg_options options = {.side = PG_SOURCE,
                                     .conninfo = buf_text(&conninfo),
                                     .is_replication = kinds[i],
                                     .settings = "-c lock_timeout=3s"};

        succeed(pg_connect(&options, &session, &err));
        assert_string_equal(setting(session, "bytea_output"), "hex");
        assert_string_equal(setting(session, "timezone"), "UTC");
        assert_string_equal(setting(session, "datestyle"), "ISO, MDY");
        assert_string_equal(setting(session, "intervalstyle"), "postgres");
        assert_string_equal(setting(session, "extra_float_digits"), "3");
        assert_string_equal(setting(session, "search_path"), "pg_catalog");
        assert_string_equal(setting(session, "standard_conforming_strings"), "on");
        assert_string_equal(setting(session, "quote_all_identifiers"), "off");
        assert_string_equal(setting(session, "client_encoding"), "UTF8");
        assert_string_equal(setting(session, "statement_timeout"), "0");
        assert_string_equal(setting(session, "geqo"), "off");
        assert_string_equal(setting(session, "lock_timeout"), "3s");
    }
    unsetenv("PGTZ");
    unsetenv("PGDATESTYLE");
    succeed(pg_exec(pg, "ALTER ROLE CURRENT_USER RESET ALL", &err));
    assert_string_equal(setting(pg, "synchronous_commit"), "on");
    assert_string_equal(setting(pg, "jit"), "off");
}

static void try_connect(const char *more, enum pg_side side, struct error *ret_err)
{
    _cleanup_pg_ struct pg *session = NULL;
    _cleanup_buf_ struct buf conninfo = {0};
    struct pg_options options = {.side = side, .connect_timeout_s = 2};

    buf_printf(&conninfo, "%s %s", conninfo_of("ADMIN"), more);
    options.conninfo = buf_text(&conninfo);
    if (pg_connect(&options, &session, ret_err))
        fail_msg("connected with %s", more);
}

static void refused_connections_say_why(void **state)
{
    struct error err;

    (void) state;
    try_connect("user=nobody_here password=geheim", PG_SOURCE, &err);
    assert_int_equal(err.kind, ERROR_SOURCE);
    assert_string_equal(err.sqlstate, "28000");
    assert_true(pg_error_is_permanent(&err));
    assert_non_null(strstr(err.hint, "source.conninfo"));
    conceals("geheim");

    try_connect("dbname=nothing_here", PG_MIRROR, &err);
    assert_int_equal(err.kind, ERROR_MIRROR);
    assert_string_equal(err.sqlstate, "3D000");
    assert_true(pg_error_is_permanent(&err));

    try_connect("port=1", PG_MIRROR, &err);
    assert_int_equal(err.kind, ERROR_MIRROR);
    assert_string_equal(err.sqlstate, "");
    assert_false(pg_error_is_permanent(&err));

    try_connect("options='-c nonsense=1'", PG_SOURCE, &err);
    assert_int_equal(err.kind, ERROR_SOURCE);
    assert_true(pg_error_is_permanent(&err));

    /* libpq would quote the part of the password that it stumbles on. */
    try_connect("password=my geheim", PG_SOURCE, &err);
    assert_int_equal(err.kind, ERROR_CONFIG);
    conceals("geheim");
}

/* ---- statements ---- */

static void errors_have_kinds_and_no_values(void **state)
{
    struct error err;
    struct pg_result *result;

    (void) state;
    succeed(pg_exec(pg,
                    "DROP TABLE IF EXISTS public.e;"
                    "CREATE TABLE public.e (a int PRIMARY KEY, b text NOT NULL, c varchar(3));"
                    "INSERT INTO public.e VALUES (1, 'geheim')",
                    &err));
    refuse(pg_exec(pg, "SELECT 'geheim'::int", &err), ERROR_DATA, "type integer");
    conceals("geheim");
    refuse(pg_exec(pg, "INSERT INTO public.e VALUES (1, 'geheim')", &err), ERROR_DATA, "e_pkey");
    conceals("geheim");
    refuse(pg_exec(pg, "INSERT INTO public.e VALUES (2, NULL)", &err), ERROR_DATA, "\"b\"");
    refuse(pg_exec(pg, "SELECT '{geheim'::int[]", &err), ERROR_DATA, "array");
    conceals("geheim");
    refuse(pg_exec(pg, "SELECT FROM nothing_here", &err), ERROR_FAILED, "SELECT");
    assert_string_equal(err.sqlstate, "42P01");
    refuse(pg_exec(pg, "BEGIN READ ONLY; INSERT INTO public.e VALUES (3, '')", &err), ERROR_MIRROR,
           "read-only");
    succeed(pg_exec(pg, "ROLLBACK", &err));
    refuse(pg_query_row(pg, "SELECT a FROM public.e WHERE a = 9", 0, NULL, &result, &err),
           ERROR_FAILED, "0 rows");
    refuse(pg_exec(pg, "COPY public.e TO STDOUT", &err), ERROR_BUG, "");
    /* libpq leaves the COPY by itself before the next statement. */
    succeed(pg_exec(pg, "SELECT 1", &err));
}

static void a_server_that_goes_away(void **state)
{
    _cleanup_pg_ struct pg *other = connect_as("ADMIN", PG_SOURCE, false);
    struct error err;
    int64_t n;

    (void) state;
    refuse(pg_exec(other, "SELECT pg_terminate_backend(pg_backend_pid())", &err), ERROR_SOURCE, "");
    assert_false(pg_error_is_permanent(&err));
    refuse(pg_exec(other, "SELECT 1", &err), ERROR_SOURCE, "");
    assert_true(pg_is_broken(other));
    refuse(pg_copy_in_begin(other, "COPY public.e FROM STDIN", &err), ERROR_SOURCE, "");
    refuse(pg_pipeline_enter(other, &err), ERROR_SOURCE, "");
    refuse(pg_copy_in_end(other, &n, &err), ERROR_SOURCE, "");
}

static void a_server_that_goes_away_in_a_pipeline(void **state)
{
    _cleanup_pg_ struct pg *other = connect_as("ADMIN", PG_MIRROR, false);
    struct pg_result *result;
    struct error err;

    (void) state;
    succeed(pg_pipeline_enter(other, &err));
    succeed(pg_send_query(other, "SELECT pg_terminate_backend(pg_backend_pid())", 0, NULL, &err));
    for (int i = 0; i < 100; i++)
        succeed(pg_send_query(other, "SELECT 1", 0, NULL, &err));
    succeed(pg_pipeline_sync(other, &err));
    refuse(pg_pipeline_next(other, &result, &err), ERROR_MIRROR, "");
    refuse(pg_pipeline_drain(other, &err), ERROR_MIRROR, "");
    refuse(pg_send_query(other, "SELECT 1", 0, NULL, &err), ERROR_MIRROR, "");
}

static void waiting_ends(void **state)
{
    _cleanup_result_ struct pg_result *result = NULL;
    struct error err;
    int64_t before = clock_tick_us();
    int fds[2];

    (void) state;
    refuse(pg_query_wait(pg, "SELECT pg_sleep(30)", 50, -1, &result, &err), ERROR_RETRY, "");
    assert_string_equal(err.sqlstate, "57014");
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "x", 1), 1);
    refuse(pg_query_wait(pg, "SELECT pg_sleep(30)", -1, fds[0], &result, &err), ERROR_RETRY, "");
    assert_true(clock_tick_us() - before < 10000000);
    succeed(pg_query_wait(pg, "SELECT 1; SELECT 7", 20000, -1, &result, &err));
    assert_int_equal(pg_int(result, 0, 0), 7);
    close(fds[0]);
    close(fds[1]);
}

/* ---- pipelines ---- */

#define take(result)                                                                               \
    do {                                                                                           \
        (result) = NULL;                                                                           \
        succeed(pg_pipeline_next(pg, &(result), &err));                                            \
    } while (0)

/* Megabytes in both directions between two syncs: no deadlock. */
static void large_pipelines_flow(void **state)
{
    _cleanup_buf_ struct buf big = {0};
    struct pg_result *result;
    struct error err;

    (void) state;
    for (int i = 0; i < 100000; i++)
        buf_add(&big, "0123456789");
    succeed(
        pg_exec(pg, "DROP TABLE IF EXISTS public.p; CREATE TABLE public.p (a int, b text)", &err));
    succeed(pg_pipeline_enter(pg, &err));
    succeed(pg_send_prepare(pg, "p", "INSERT INTO public.p VALUES ($1, $2)", &err));
    for (int i = 0; i < 16; i++) {
        struct pg_param params[] = {{"1", 0, false}, {big.data, big.len, true}};

        succeed(pg_send_prepared(pg, "p", 2, params, &err));
    }
    for (int i = 0; i < 16; i++)
        succeed(pg_send_query(pg, "SELECT b FROM public.p LIMIT 2", 0, NULL, &err));
    succeed(pg_pipeline_sync(pg, &err));
    take(result);
    pg_result_free(result);
    for (int i = 0; i < 16; i++) {
        take(result);
        assert_int_equal(pg_affected(result), 1);
        pg_result_free(result);
    }
    for (int i = 0; i < 16; i++) {
        take(result);
        assert_int_equal(pg_rows(result), 2);
        assert_int_equal(pg_text_len(result, 1, 0), big.len);
        pg_result_free(result);
    }
    take(result);
    assert_null(result);
    refuse(pg_pipeline_next(pg, &result, &err), ERROR_BUG, "");
    succeed(pg_pipeline_leave(pg, &err));
}

static void failed_pipelines_drain(void **state)
{
    struct pg_result *result;
    struct error err;

    (void) state;
    succeed(pg_pipeline_enter(pg, &err));
    /* A result without a sync: the server is asked for it. */
    succeed(pg_send_query(pg, "SELECT 1", 0, NULL, &err));
    take(result);
    assert_int_equal(pg_int(result, 0, 0), 1);
    pg_result_free(result);
    succeed(pg_send_query(pg, "SELECT 1/0", 0, NULL, &err));
    succeed(pg_send_query(pg, "SELECT 2", 0, NULL, &err));
    succeed(pg_pipeline_sync(pg, &err));
    succeed(pg_send_query(pg, "SELECT 3", 0, NULL, &err));
    refuse(pg_pipeline_leave(pg, &err), ERROR_BUG, "");
    refuse(pg_pipeline_next(pg, &result, &err), ERROR_DATA, "division");
    refuse(pg_pipeline_next(pg, &result, &err), ERROR_BUG, "");
    succeed(pg_pipeline_drain(pg, &err));
    succeed(pg_exec(pg, "SELECT 1", &err));
    /* After the sync of a failure, the pipeline goes on. */
    succeed(pg_pipeline_enter(pg, &err));
    succeed(pg_send_query(pg, "SELECT 1/0", 0, NULL, &err));
    succeed(pg_pipeline_sync(pg, &err));
    succeed(pg_send_query(pg, "SELECT 4", 0, NULL, &err));
    succeed(pg_pipeline_sync(pg, &err));
    refuse(pg_pipeline_next(pg, &result, &err), ERROR_DATA, "division");
    take(result);
    assert_null(result);
    take(result);
    assert_int_equal(pg_int(result, 0, 0), 4);
    pg_result_free(result);
    succeed(pg_pipeline_drain(pg, &err));
}

/* ---- COPY ---- */

static void copies_both_ways(void **state)
{
    _cleanup_buf_ struct buf all = {0};
    struct error err;
    const char *data;
    size_t len;
    int64_t rows;

    (void) state;
    succeed(
        pg_exec(pg, "DROP TABLE IF EXISTS public.c; CREATE TABLE public.c (a int, b text)", &err));
    succeed(pg_copy_in_begin(pg, "COPY public.c FROM STDIN", &err));
    succeed(pg_copy_in_put(pg, "1\tx\n2", 5, &err));
    succeed(pg_copy_in_put(pg, "\t\\N\n", 4, &err));
    succeed(pg_copy_in_end(pg, &rows, &err));
    assert_int_equal(rows, 2);
    succeed(pg_copy_in_begin(pg, "COPY public.c FROM STDIN", &err));
    succeed(pg_copy_in_put(pg, "geheim\tx\n", 9, &err));
    refuse(pg_copy_in_end(pg, &rows, &err), ERROR_DATA, "COPY FROM");
    conceals("geheim");
    succeed(pg_copy_in_begin(pg, "COPY public.c FROM STDIN", &err));
    succeed(pg_copy_in_put(pg, "3\tx\n", 4, &err));
    pg_copy_in_abort(pg, "changed our mind");
    succeed(pg_copy_out_begin(pg, "COPY (SELECT * FROM public.c ORDER BY a) TO STDOUT", &err));
    for (;;) {
        succeed(pg_copy_out_next(pg, &data, &len, &err));
        if (data == NULL)
            break;
        buf_add_bytes(&all, data, len);
    }
    assert_string_equal(buf_text(&all), "1\tx\n2\t\\N\n");
    succeed(pg_copy_out_begin(pg, "COPY (SELECT 1/(3 - g) FROM generate_series(1, 5) g) TO STDOUT",
                              &err));
    succeed(pg_copy_out_next(pg, &data, &len, &err));
    succeed(pg_copy_out_next(pg, &data, &len, &err));
    refuse(pg_copy_out_next(pg, &data, &len, &err), ERROR_DATA, "division");
    refuse(pg_copy_in_begin(pg, "COPY public.c TO STDOUT", &err), ERROR_BUG, "");
    refuse(pg_copy_out_begin(pg, "COPY public.c FROM STDIN", &err), ERROR_BUG, "");
    succeed(pg_exec(pg, "SELECT 1", &err));
}

/* ---- the stream ---- */

static void streams_wait_and_wake(void **state)
{
    _cleanup_pg_ struct pg *stream = connect_as("ADMIN", PG_SOURCE, true);
    struct error err;
    const char *data;
    int64_t before;
    size_t len;
    int fds[2], nmessages = 0;
    char byte;

    (void) state;
    assert_int_equal(pipe(fds), 0);
    succeed(pg_exec(stream, "CREATE_REPLICATION_SLOT wait TEMPORARY LOGICAL test_decoding", &err));
    succeed(pg_stream_start(stream, "START_REPLICATION SLOT wait LOGICAL 0/0", &err));
    succeed(pg_exec(pg, "INSERT INTO public.c VALUES (9, 'nine')", &err));
    while (nmessages < 3) {
        succeed(pg_stream_next(stream, 5000, fds[0], &data, &len, &err));
        assert_non_null(data);
        nmessages += data[0] == 'w';
    }
    do
        succeed(pg_stream_next(stream, 50, -1, &data, &len, &err));
    while (data != NULL);
    succeed(pg_stream_next(stream, 0, -1, &data, &len, &err));
    assert_null(data);
    before = clock_tick_us();
    assert_int_equal(write(fds[1], "x", 1), 1);
    succeed(pg_stream_next(stream, 20000, fds[0], &data, &len, &err));
    assert_null(data);
    assert_true(clock_tick_us() - before < 10000000);
    assert_int_equal(read(fds[0], &byte, 1), 1);
    succeed(pg_exec(pg,
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
                    "WHERE slot_name = 'wait'",
                    &err));
    for (;;)
        if (!pg_stream_next(stream, 5000, fds[0], &data, &len, &err))
            break;
    assert_int_equal(err.kind, ERROR_SOURCE);
    close(fds[0]);
    close(fds[1]);
}

/* ---- names ---- */

static void P67_names_are_quoted(void **state)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *result = NULL;
    struct error err;

    (void) state;
    buf_add(&sql, "SELECT ");
    pg_add_literal(&sql, "it's \\ \"q\"; --");
    buf_add(&sql, " AS ");
    pg_add_ident(&sql, "We\"ird'; --");
    succeed(pg_query_row(pg, buf_text(&sql), 0, NULL, &result, &err));
    assert_string_equal(pg_text(result, 0, 0), "it's \\ \"q\"; --");
    buf_clear(&sql);
    pg_describe("postgresql://u:geheim@h:1/db?application_name=x", &sql);
    assert_string_equal(buf_text(&sql), "host=h port=1 dbname=db user=u");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(P10_sessions_are_pinned),
        cmocka_unit_test(refused_connections_say_why),
        cmocka_unit_test(errors_have_kinds_and_no_values),
        cmocka_unit_test(a_server_that_goes_away),
        cmocka_unit_test(a_server_that_goes_away_in_a_pipeline),
        cmocka_unit_test(waiting_ends),
        cmocka_unit_test(large_pipelines_flow),
        cmocka_unit_test(failed_pipelines_drain),
        cmocka_unit_test(copies_both_ways),
        cmocka_unit_test(streams_wait_and_wake),
        cmocka_unit_test(P67_names_are_quoted),
    };
    int failed;

    pg = connect_as("ADMIN", PG_MIRROR, false);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    pg_free(pg);
    return failed;
}
