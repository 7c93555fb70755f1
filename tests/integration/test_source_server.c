/*
 * Slot, snapshot, publication and stream against a server, with the least-privileged role.  Run by
 * test_programs.py.
 */
#include "base/clock.h"
#include "programs.h"
#include "source/publication.h"
#include "source/slot.h"
#include "source/snapshot.h"
#include "source/stream.h"

#include <unistd.h>

static struct pg *owner, *replicator, *replication;
static char slot[SLOT_NAME_SIZE];
static struct arena arena;

/* Not every server has it, or may load it. */
static bool has_wal2json(void)
{
    const char *has = getenv("TAILWATER_TEST_WAL2JSON");

    return has == NULL || strcmp(has, "no") != 0;
}

static void run(const char *sql)
{
    struct error err;

    succeed(pg_exec(owner, sql, &err));
}

static uint32_t relid(const char *name)
{
    _cleanup_result_ struct pg_result *result = NULL;
    struct error err;

    succeed(pg_query_row(owner, "SELECT $1::regclass::oid", 1, &name, &result, &err));
    return (uint32_t) pg_int(result, 0, 0);
}

static struct table table_of(const char *schema, const char *name)
{
    _cleanup_buf_ struct buf qualified = {0};

    pg_add_qualified(&qualified, schema, name);
    return (struct table){.schema = schema,
                          .name = name,
                          .label = arena_strdup(&arena, buf_text(&qualified)),
                          .relid = relid(buf_text(&qualified))};
}

/* ---- the slot ---- */

static struct slot_status look(void)
{
    struct slot_status status;
    struct error err;

    succeed(slot_look(replicator, slot, &status, &err));
    return status;
}

static struct slot_create_options slot_of(const char *plugin, bool is_temporary)
{
    return (struct slot_create_options){.slot = slot,
                                        .plugin = plugin,
                                        .is_temporary = is_temporary,
                                        .timeout_ms = 20000,
                                        .wake_fd = -1};
}

static void slots_are_made_seen_and_dropped(void **state)
{
    const char *plugin = has_wal2json() ? "wal2json" : "test_decoding";
    struct slot_create_options options = slot_of(plugin, false);
    struct slot_identity identity;
    struct slot_created created;
    struct slot_status status;
    struct error err;

    (void) state;
    succeed(slot_identify(replication, &identity, &err));
    assert_true(strlen(identity.system_identifier) >= 18);
    assert_int_equal(identity.timeline, 1);
    assert_true(identity.flushed > 0);

    status = look();
    assert_false(status.exists);
    refuse(slot_check(&status, slot, plugin, identity.database, &err), ERROR_SLOT,
           "does not exist");

    succeed(slot_create(replication, &options, &created, &err));
    assert_true(created.consistent_point > 0);
    assert_string_equal(created.snapshot, "");
    status = look();
    assert_true(status.exists && status.is_logical && !status.is_temporary && !status.is_lost);
    assert_string_equal(status.plugin, plugin);
    assert_string_equal(status.database, identity.database);
    assert_string_equal(status.wal_status, "reserved");
    assert_int_equal(status.active_pid, 0);
    assert_true(status.confirmed_flush == created.consistent_point);
    assert_true(status.restart_lsn > 0 && status.restart_lsn <= status.confirmed_flush);
    assert_true(status.current >= status.confirmed_flush);
    assert_true(status.retained_bytes == (int64_t) (status.current - status.restart_lsn));
    assert_true(status.safe_wal_bytes == -1);

    succeed(slot_check(&status, slot, plugin, identity.database, &err));
    refuse(slot_check(&status, slot, "pgoutput", identity.database, &err), ERROR_SLOT, "not ours");
    refuse(slot_check(&status, slot, plugin, "elsewhere", &err), ERROR_SLOT, "not ours");
    refuse(slot_create(replication, &options, &created, &err), ERROR_SLOT, "there already");

    succeed(slot_drop(replicator, slot, &err));
    assert_false(look().exists);
    succeed(slot_drop(replicator, slot, &err));
}

/* P46: one release says 42501, an older one that the library is missing. */
static void P46_plugins_are_probed(void **state)
{
    struct error err;

    (void) state;
    if (has_wal2json())
        succeed(slot_probe(replication, "wal2json", &err));
    succeed(slot_probe(replication, "pgoutput", &err));
    refuse(slot_probe(replication, "no_such_plugin", &err), ERROR_FINDINGS, "no_such_plugin");
    assert_non_null(strstr(err.hint, "install"));
}

/* P48: creation waits for whoever writes, says so, and leaves nothing behind. */
static void P48_creation_names_whom_it_waits_for(void **state)
{
    struct slot_create_options options = slot_of("pgoutput", false);
    _cleanup_pg_ struct pg *writer = connect_as("OWNER", PG_SOURCE, false);
    _cleanup_result_ struct pg_result *result = NULL;
    struct slot_created created;
    struct error err;
    char pid[32];

    (void) state;
    succeed(pg_query_row(writer, "SELECT pg_backend_pid()", 0, NULL, &result, &err));
    snprintf(pid, sizeof(pid), "PID %s ", pg_text(result, 0, 0));
    succeed(pg_exec(writer, "BEGIN; INSERT INTO public.t VALUES (100, 'open')", &err));
    options.timeout_ms = 300;
    refuse(slot_create(replication, &options, &created, &err), ERROR_RETRY, pid);
    assert_string_equal(err.sqlstate, "57014");
    assert_false(look().exists);
    succeed(slot_probe(replication, "pgoutput", &err));
    succeed(pg_exec(writer, "ROLLBACK", &err));
    options.timeout_ms = 20000;
    succeed(slot_create(replication, &options, &created, &err));
    succeed(slot_drop(replicator, slot, &err));
}

/* ---- the snapshot ---- */

static int64_t count(struct pg *reader)
{
    _cleanup_result_ struct pg_result *result = NULL;
    struct error err;

    succeed(pg_query_row(reader, "SELECT count(*) FROM public.t", 0, NULL, &result, &err));
    return pg_int(result, 0, 0);
}

static void hold_a_snapshot(const char *plugin)
{
    struct slot_create_options options = slot_of(plugin, true);
    struct pg_options connection = {.side = PG_SOURCE, .conninfo = conninfo_of("REPLICATOR")};
    _cleanup_pg_ struct pg *first = connect_as("REPLICATOR", PG_SOURCE, false);
    _cleanup_pg_ struct pg *second = connect_as("REPLICATOR", PG_SOURCE, false);
    struct snapshot *snapshot = NULL;
    char name[SLOT_NAME_SIZE];
    int64_t before = count(owner);
    struct error err;

    succeed(snapshot_open(&connection, &options, &snapshot, &err));
    assert_true(snapshot_lsn(snapshot) > 0);
    run("INSERT INTO public.t VALUES ((SELECT 200 + count(*) FROM public.t), 'later')");
    succeed(snapshot_import(first, snapshot_name(snapshot), &err));
    succeed(snapshot_import(second, snapshot_name(snapshot), &err));
    snprintf(name, sizeof(name), "%s", snapshot_name(snapshot));
    snapshot_free(snapshot);
    assert_int_equal(count(first), before);
    assert_int_equal(count(second), before);
    succeed(pg_exec(first, "COMMIT", &err));
    assert_int_equal(count(first), before + 1);
    /* The holder is gone, if not yet noticed: in the end nothing can be imported. */
    for (int i = 0; snapshot_import(first, name, &err); i++) {
        assert_true(i < 500);
        succeed(pg_exec(first, "COMMIT", &err));
        usleep(10000);
    }
    assert_int_equal(err.kind, ERROR_RETRY);
    assert_int_equal(count(first), before + 1);
    for (int i = 0; look().exists; i++, usleep(10000))
        assert_true(i < 500);
}

static void P49_snapshots_last_as_long_as_they_are_held(void **state)
{
    (void) state;
    hold_a_snapshot("pgoutput");
    if (has_wal2json())
        hold_a_snapshot("wal2json");
}

/* ---- the publication ---- */

static const char *ensure(struct pg *pg, struct table *tables, int ntables)
{
    struct table_list list = {.count = ntables, .tables = tables};
    const char *sql = NULL;
    struct error err;

    succeed(publication_ensure(pg, "te'st \"pub\"", &list, &arena, &sql, &err));
    return sql;
}

static void publications_are_made_and_extended(void **state)
{
    struct table tables[] = {table_of("public", "t"), table_of("We\"ird", "x.y, z*'\\"),
                             table_of("public", "root")};
    struct table_list list = {.count = 3, .tables = tables};
    struct publication publication;
    const char *sql = NULL;
    struct error err;

    (void) state;
    tables[2].is_partitioned = true;
    refuse(publication_ensure(replicator, "te'st \"pub\"", &list, &arena, &sql, &err),
           ERROR_FINDINGS,
           "CREATE PUBLICATION \"te'st \"\"pub\"\"\" FOR TABLE ONLY \"public\".\"t\"");
    sql = ensure(owner, tables, 2);
    assert_non_null(sql);
    assert_null(ensure(owner, tables, 2));
    assert_null(ensure(replicator, tables, 2));
    refuse(publication_ensure(replicator, "te'st \"pub\"", &list, &arena, &sql, &err),
           ERROR_FINDINGS, "ADD TABLE \"public\".\"root\"");
    assert_string_equal(ensure(owner, tables, 3),
                        "ALTER PUBLICATION \"te'st \"\"pub\"\"\" ADD TABLE \"public\".\"root\";");
    assert_null(ensure(owner, tables, 3));
    succeed(publication_look(replicator, "te'st \"pub\"", &arena, &publication, &err));
    assert_true(publication.exists && publication.is_via_root && publication.publishes_all_actions);
    assert_string_equal(publication.owner, "app");
    assert_int_equal(publication.ntables, 3);

    /* A leaf of its own would come under the root's name. */
    tables[2] = table_of("public", "leaf");
    refuse(publication_ensure(owner, "te'st \"pub\"", &list, &arena, &sql, &err), ERROR_FINDINGS,
           "partitioned table's name");
    refuse(publication_drop(replicator, "te'st \"pub\"", &err), ERROR_FINDINGS, "DROP PUBLICATION");
    succeed(publication_drop(owner, "te'st \"pub\"", &err));
    succeed(publication_drop(owner, "te'st \"pub\"", &err));
}

static void a_long_statement_does_not_fit_a_hint(void **state)
{
    struct table many[60];
    struct table_list list = {.count = 60, .tables = many};
    const char *sql = NULL;
    struct error err;

    (void) state;
    for (int i = 0; i < 60; i++)
        many[i] = (struct table){.schema = "public",
                                 .name = arena_printf(&arena, "a_rather_long_name_%d", i),
                                 .label = "x"};
    refuse(publication_ensure(replicator, "long", &list, &arena, &sql, &err), ERROR_FINDINGS,
           "whole statement");
}

static void P17_publications_that_are_not_plain_are_refused(void **state)
{
    static const struct {
        const char *sql, *words;
    } bad[] = {
        {"CREATE PUBLICATION bad FOR TABLE public.t WHERE (id > 5)", "row filter"},
        {"CREATE PUBLICATION bad FOR TABLE public.t (id)", "column list"},
        {"CREATE PUBLICATION bad FOR TABLE public.t WITH (publish = 'insert, update, delete')",
         "truncate"},
        {"CREATE PUBLICATION bad FOR TABLE public.t, public.root", "publish_via_partition_root"},
    };
    struct table tables[] = {table_of("public", "t"), table_of("public", "root")};
    struct table_list list = {.count = 2, .tables = tables};
    _cleanup_pg_ struct pg *admin = connect_as("ADMIN", PG_SOURCE, false);
    const char *sql = NULL;
    struct error err;

    (void) state;
    tables[1].is_partitioned = true;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        run(bad[i].sql);
        if (i < 2)
            run("ALTER PUBLICATION bad SET (publish_via_partition_root = true)");
        refuse(publication_ensure(owner, "bad", &list, &arena, &sql, &err), ERROR_FINDINGS,
               bad[i].words);
        run("DROP PUBLICATION bad");
    }
    succeed(pg_exec(admin, "CREATE PUBLICATION bad FOR ALL TABLES", &err));
    refuse(publication_ensure(owner, "bad", &list, &arena, &sql, &err), ERROR_FINDINGS,
           "ALL TABLES");
    succeed(pg_exec(admin, "DROP PUBLICATION bad", &err));
    /* A schema's tables are published without being named. */
    succeed(pg_exec(admin,
                    "CREATE PUBLICATION good FOR TABLES IN SCHEMA public"
                    " WITH (publish_via_partition_root = true)",
                    &err));
    succeed(publication_ensure(owner, "good", &list, &arena, &sql, &err));
    assert_null(sql);
    succeed(pg_exec(admin, "DROP PUBLICATION good", &err));
}

/* ---- the stream ---- */

static struct stream_options stream_of(const char *plugin, const char *add_tables)
{
    return (struct stream_options){
        .conninfo = conninfo_of("REPLICATOR"),
        .application = "tailwater test receiver",
        .slot = slot,
        .ops = stream_find_decoder(plugin),
        .decoder = {.publication = "pub", .add_tables = add_tables, .prefix = "tailwater"},
        .decode_memory_bytes = 64 << 20,
        .wal_sender_timeout_us = 60000000,
    };
}

static void make_slot(const char *plugin)
{
    struct slot_create_options options = slot_of(plugin, false);
    struct slot_created created;
    struct error err;

    succeed(slot_create(replication, &options, &created, &err));
}

/* The former connection's end is noticed a little later. */
static void drop_slot(void)
{
    struct error err;

    for (int i = 0; !slot_drop(replicator, slot, &err); i++, usleep(10000)) {
        assert_int_equal(err.kind, ERROR_BUSY);
        assert_true(i < 500);
    }
}

static struct stream *open_stream(const struct stream_options *options)
{
    struct stream *stream = NULL;
    struct error err;

    for (int i = 0; !stream_open(options, &stream, &err); i++, usleep(10000)) {
        if (err.kind != ERROR_BUSY || i == 500)
            fail_msg("%s", err.message);
    }
    return stream;
}

/* The next change of a kind that means something. */
static void next_change(struct stream *stream, struct stream_event *ret_event)
{
    struct error err;

    for (;;) {
        succeed(stream_next(stream, 10000, -1, ret_event, &err));
        if (ret_event->kind == STREAM_NOTHING)
            fail_msg("nothing came");
        if (ret_event->kind == STREAM_CHANGE && ret_event->change.kind != CHANGE_NONE)
            return;
    }
}

/* begin, one row, commit: the row's table name; the commit in *ret_commit. */
static const char *read_transaction(struct stream *stream, struct change *ret_commit)
{
    static char name[64];
    struct stream_event event;

    do
        next_change(stream, &event);
    while (event.change.kind == CHANGE_BEGIN);
    snprintf(name, sizeof(name), "%s", "");
    for (; event.change.kind != CHANGE_COMMIT; next_change(stream, &event)) {
        /* wal2json frames the transactions that it filtered, too. */
        assert_int_equal(event.change.kind, CHANGE_INSERT);
        assert_true(event.message_bytes > 0 && event.wal_end > 0);
        snprintf(name, sizeof(name), "%s", event.change.relation->name);
    }
    *ret_commit = event.change;
    return name;
}

static void confirm_and_stop(struct stream *stream, lsn_t lsn)
{
    struct error err;

    succeed(stream_confirm(stream, lsn, &err));
    assert_true(stream_confirmed(stream) == lsn);
    for (int i = 0; look().confirmed_flush != lsn; i++, usleep(10000))
        assert_true(i < 500);
    /* Never backwards (P38). */
    succeed(stream_confirm(stream, lsn - 1, &err));
    assert_true(stream_confirmed(stream) == lsn);
    stream_free(stream);
}

static void read_with(const char *plugin)
{
    struct stream_options options = stream_of(plugin, "public.t");
    struct stream *stream, *second = NULL;
    struct change first, next;
    struct slot_status status;
    struct error err;

    make_slot(plugin);
    run("INSERT INTO public.t VALUES (1000, 'first')");
    stream = open_stream(&options);
    assert_int_equal(stream_server_version(stream), pg_server_version(replicator));
    assert_string_equal(read_transaction(stream, &first), "t");
    assert_true(first.final_lsn > 0 && first.end_lsn > first.final_lsn);

    /* P42: who else reads from it. */
    status = look();
    assert_true(status.active_pid > 0);
    assert_string_equal(status.active_application, "tailwater test receiver");
    refuse(stream_open(&options, &second, &err), ERROR_BUSY,
           "(application tailwater test receiver)");
    refuse(slot_drop(replicator, slot, &err), ERROR_BUSY, "PID");

    run("INSERT INTO public.t VALUES (1001, 'second')");
    assert_string_equal(read_transaction(stream, &next), "t");
    assert_true(next.final_lsn >= first.end_lsn);
    confirm_and_stop(stream, first.end_lsn);

    /* From the confirmed place on: the second one again, and only that. */
    options.start = first.end_lsn;
    stream = open_stream(&options);
    read_transaction(stream, &first);
    assert_true(first.final_lsn == next.final_lsn);
    stream_free(stream);
    drop_slot();
    run("DELETE FROM public.t WHERE id >= 1000");
}

static void streams_read_and_confirm(void **state)
{
    (void) state;
    run("CREATE PUBLICATION pub FOR TABLE public.t, \"We\"\"ird\".\"x.y, z*'\\\"");
    if (has_wal2json())
        read_with("wal2json");
    read_with("pgoutput");
    assert_null(stream_find_decoder("nothing"));
}

/* P39: keepalives carry the source's position; P7: whether null may be NaN is known. */
static void keepalives_come(void **state)
{
    const char *plugin = has_wal2json() ? "wal2json" : "pgoutput";
    struct stream_options options = stream_of(plugin, NULL);
    struct stream_event event = {0};
    struct stream *stream;
    struct error err;

    (void) state;
    make_slot(plugin);
    stream = open_stream(&options);
    for (int i = 0; event.kind != STREAM_KEEPALIVE; i++) {
        assert_true(i < 1000);
        succeed(stream_next(stream, 5000, -1, &event, &err));
    }
    assert_true(event.wal_end >= look().confirmed_flush);
    assert_true(llabs(event.sent_at_us - clock_now_us()) < 60000000);
    stream_free(stream);

    if (has_wal2json()) {
        options = stream_of("wal2json", "public.t");
        stream = open_stream(&options);
        printf("  wal2json %s NaN\n", stream_loses_nan(stream) ? "loses" : "keeps");
        stream_free(stream);
    }
    drop_slot();
    make_slot("pgoutput");
    options = stream_of("pgoutput", NULL);
    stream = open_stream(&options);
    assert_false(stream_loses_nan(stream));
    stream_free(stream);
    drop_slot();
}

/* The list names exactly the tables it was made for, whatever they are called. */
static void P67_add_tables_are_escaped(void **state)
{
    struct table tables[25] = {table_of("We\"ird", "x.y, z*'\\"), table_of("public", "t")};
    struct table_list list = {.count = 2, .tables = tables};
    struct stream_options options;
    struct stream *stream;
    struct change commit;

    (void) state;
    if (!has_wal2json())
        skip();
    make_slot("wal2json");
    options = stream_of("wal2json", stream_add_tables(&list, &arena));
    stream = open_stream(&options);
    run("INSERT INTO \"We\"\"ird\".\"x.y, z*'\\\" VALUES (1)");
    assert_string_equal(read_transaction(stream, &commit), "x.y, z*'\\");
    run("INSERT INTO public.root VALUES (1)");
    assert_string_equal(read_transaction(stream, &commit), "");
    confirm_and_stop(stream, commit.end_lsn);

    /* Partitions come by their own names: the root's schema and theirs, whole. */
    tables[1] = table_of("public", "root");
    tables[1].is_partitioned = true;
    tables[1].nleaves = 1;
    tables[1].leaves = &(struct table_leaf){"public", "leaf"};
    assert_string_equal(stream_add_tables(&list, &arena),
                        "public.*,We\"ird.x\\.y\\,\\ z\\*\\'\\\\");
    options = stream_of("wal2json", stream_add_tables(&list, &arena));
    stream = open_stream(&options);
    run("INSERT INTO public.root VALUES (2)");
    assert_string_equal(read_transaction(stream, &commit), "leaf");
    stream_free(stream);
    drop_slot();

    for (int i = 0; i < 25; i++)
        tables[i] = (struct table){.schema = i < 20 ? "a" : "b c", .name = "x"};
    list.count = 20;
    assert_int_equal(strncmp(stream_add_tables(&list, &arena), "a.x,a.x", 7), 0);
    list.count = 25;
    assert_string_equal(stream_add_tables(&list, &arena), "a.*,b\\ c.*");
}

static void slots_that_cannot_be_read_are_explained(void **state)
{
    struct stream_options options = stream_of("pgoutput", NULL);
    struct stream *stream = NULL;
    struct stream_event event;
    struct error err = {0};

    (void) state;
    refuse(stream_open(&options, &stream, &err), ERROR_SLOT, "does not exist");

    /* P44: the publication of that time is gone, and a new one does not help. */
    make_slot("pgoutput");
    run("DROP PUBLICATION pub; INSERT INTO public.t VALUES (2000, 'lost');"
        "CREATE PUBLICATION pub FOR TABLE public.t");
    stream = open_stream(&options);
    while (stream_next(stream, 10000, -1, &event, &err))
        if (event.kind == STREAM_NOTHING)
            fail_msg("nothing came");
    assert_int_equal(err.kind, ERROR_SLOT);
    assert_string_equal(err.sqlstate, "42704");
    stream_free(stream);
    drop_slot();

    make_slot(has_wal2json() ? "wal2json" : "test_decoding");
    refuse(stream_open(&options, &stream, &err), ERROR_SLOT, "not ours");
    if (has_wal2json()) {
        options = stream_of("wal2json", "no point");
        refuse(stream_open(&options, &stream, &err), ERROR_CONFIG, "wal2json");
    }
    drop_slot();
    run("DROP PUBLICATION pub");
}

static int disconnect(void **state)
{
    (void) state;
    pg_free(owner);
    pg_free(replicator);
    pg_free(replication);
    arena_release(&arena);
    return 0;
}

static int prepare(void **state)
{
    (void) state;
    owner = connect_as("OWNER", PG_SOURCE, false);
    replicator = connect_as("REPLICATOR", PG_SOURCE, false);
    replication = connect_as("REPLICATOR", PG_SOURCE, true);
    snprintf(slot, sizeof(slot), "test_source_%d", (int) getpid());
    run("DROP TABLE IF EXISTS public.t, public.root; DROP SCHEMA IF EXISTS \"We\"\"ird\" CASCADE;"
        "DROP PUBLICATION IF EXISTS pub;"
        "CREATE TABLE public.t (id int PRIMARY KEY, b text);"
        "CREATE TABLE public.root (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE public.leaf PARTITION OF public.root DEFAULT;"
        "CREATE SCHEMA \"We\"\"ird\";"
        "CREATE TABLE \"We\"\"ird\".\"x.y, z*'\\\" (id int PRIMARY KEY)");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_made_seen_and_dropped),
        cmocka_unit_test(P46_plugins_are_probed),
        cmocka_unit_test(P48_creation_names_whom_it_waits_for),
        cmocka_unit_test(P49_snapshots_last_as_long_as_they_are_held),
        cmocka_unit_test(publications_are_made_and_extended),
        cmocka_unit_test(a_long_statement_does_not_fit_a_hint),
        cmocka_unit_test(P17_publications_that_are_not_plain_are_refused),
        cmocka_unit_test(streams_read_and_confirm),
        cmocka_unit_test(keepalives_come),
        cmocka_unit_test(P67_add_tables_are_escaped),
        cmocka_unit_test(slots_that_cannot_be_read_are_explained),
    };

    return cmocka_run_group_tests(tests, prepare, disconnect);
}
