/* The command line's parser, and what init writes. */
#include "base/human.h"
#include "cli/cli.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MAX_ARGS 8

struct line {
    const char *args[MAX_ARGS]; /* without argv[0]; NULL ends them */
    const char *message;        /* of the refusal */
};

static bool parse(const char *const *args, struct cli *ret_cli, struct error *err)
{
    char *argv[MAX_ARGS + 1] = {(char *) "tailwater"};
    int argc = 1;

    for (; argc <= MAX_ARGS && args[argc - 1] != NULL; argc++)
        argv[argc] = (char *) args[argc - 1];
    return cli_parse(argc, argv, ret_cli, err);
}

static void refuses(void **state)
{
    static const struct line lines[] = {
        {{NULL}, "no verb given"},
        {{"-c", "x"}, "no verb given"},
        {{"hepl"}, "unknown verb \"hepl\"; did you mean \"help\"?"},
        {{"frobnicate"}, "unknown verb \"frobnicate\""},
        {{"version", "--jsno"}, "version: unknown option --jsno; did you mean --json?"},
        {{"version", "--frobnicate"}, "version: unknown option --frobnicate"},
        {{"version", "-x"}, "version: unknown option -x"},
        {{"--json", "version"}, "unknown option --json before the verb"},
        {{"version", "--json", "--json"}, "option --json is given twice"},
        {{"version", "--json=yes"}, "option --json takes no value"},
        {{"version", "x"}, "version: unexpected argument \"x\""},
        {{"help", "a", "b"}, "help: unexpected argument \"b\""},
        {{"help", "--", "--json", "b"}, "help: unexpected argument \"b\""},
        {{"init", "--source"}, "option --source needs its value: --source CONNINFO"},
        {{"init", "--source", "--mirror", "x"},
         "option --source needs its value: --source CONNINFO"},
        {{"init", "--source="}, "option --source: its value is empty"},
        {{"init", "--source", "a", "--source=b"}, "option --source is given twice"},
        {{"-c", "x", "version"}, "version reads no configuration: it takes no --config"},
        {{"version", "-c", "x"}, "version: unknown option -c"},
        {{"-c", "x", "-c", "y", "version"}, "option --config is given twice"},
    };

    (void) state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct cli cli;
        struct error err = {0};

        if (parse(lines[i].args, &cli, &err))
            fail_msg("accepted, instead of: %s", lines[i].message);
        assert_string_equal(err.message, lines[i].message);
        assert_int_equal(err.kind, ERROR_CONFIG);
    }
}

static void accepts(void **state)
{
    struct cli cli;
    struct error err;

    (void) state;
    assert_true(
        parse((const char *[]){"init", "--source=a=b", "--mirror", "c d", NULL}, &cli, &err));
    assert_string_equal(cli.verb->name, "init");
    assert_string_equal(cli.source, "a=b");
    assert_string_equal(cli.mirror, "c d");
    assert_null(cli.tables);
    assert_string_equal(cli.config_file, "tailwater.yaml");
    assert_true(cli.older_than_us == -1);
    assert_true(parse((const char *[]){"--version", NULL}, &cli, &err));
    assert_string_equal(cli.verb->name, "version");
    assert_true(parse((const char *[]){"--help", NULL}, &cli, &err));
    assert_true(cli.is_help && cli.verb == NULL);
    assert_true(parse((const char *[]){"-h", "init", NULL}, &cli, &err));
    assert_true(cli.is_help && strcmp(cli.verb->name, "init") == 0);
    assert_true(parse((const char *[]){"help", "--", "-x", NULL}, &cli, &err));
    assert_string_equal(cli.operands[0], "-x");
    assert_true(parse((const char *[]){"-cfile", "--help", NULL}, &cli, &err));
    assert_string_equal(cli.config_file, "file");
}

static bool no_run(void *work, struct error *err)
{
    (void) work;
    return error_set(err, ERROR_BUG, "nobody asked");
}

static void actions_are_found(void **state)
{
    static const struct cli_action actions[] = {
        {"--dry-run", "usage 0", 2, 3, "dry-run", no_run},
        {"run", "usage 1", 1, 1, "until", no_run},
        {"status", "usage 2", 0, 0, "json", no_run},
        {"dead", "usage 3", 1, 1, "json", no_run},
        {"retry", "usage 4", 1, 3, "", no_run},
    };
    static const struct {
        const char *args[MAX_ARGS];
        const char *name, *first; /* what is found … */
        const char *message;      /* … or said */
    } lines[] = {
        {{"feed", "status", "--json"}, "status", NULL, NULL},
        {{"feed", "run", "crm", "-c", "x"}, "run", "crm", NULL},
        {{"feed", "run", "--dry-run", "1"}, "--dry-run", "run", NULL}, /* a feed of that name */
        {{"feed", "retry", "crm", "1", "2"}, "retry", "crm", NULL},
        {{"feed"}, NULL, NULL, "feed: say what: run, status, dead or retry"},
        {{"feed", "retyr", "crm"},
         NULL,
         NULL,
         "feed: unknown action \"retyr\"; did you mean \"retry\"?"},
        {{"feed", "customers"},
         NULL,
         NULL,
         "feed: unknown action \"customers\"; there are run, status, dead or retry"},
        {{"feed", "run"}, NULL, NULL, "feed run: something is missing"},
        {{"feed", "status", "crm"}, NULL, NULL, "feed status: something is too much"},
        {{"feed", "crm", "--dry-run"}, NULL, NULL, "feed --dry-run: something is missing"},
        {{"feed", "retry", "crm", "--json"},
         NULL,
         NULL,
         "feed retry: --json goes with status and dead"},
        {{"feed", "status", "--until", "now"}, NULL, NULL, "feed status: --until goes with run"},
    };

    (void) state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        const struct cli_action *action = NULL;
        const char *const *operands = NULL;
        struct error err = {0};
        struct cli cli;

        assert_true(parse(lines[i].args, &cli, &err));
        if (!cli_find_action(&cli, actions, sizeof(actions) / sizeof(actions[0]), &action,
                             &operands, &err)) {
            assert_string_equal(err.message, lines[i].message ? lines[i].message : "");
            assert_int_equal(err.kind, ERROR_CONFIG);
            continue;
        }
        assert_null(lines[i].message);
        assert_string_equal(action->name, lines[i].name);
        assert_string_equal(operands[0] ? operands[0] : "", lines[i].first ? lines[i].first : "");
    }
}

static void option_values(void **state)
{
    struct cli cli = {0};
    struct error err;

    (void) state;
    assert_true(cli_read_duration("7d", &cli, offsetof(struct cli, older_than_us), &err));
    assert_true(cli.older_than_us == INT64_C(7) * 86400 * 1000000);
    assert_false(cli_read_duration("7", &cli, offsetof(struct cli, older_than_us), &err));
    assert_string_equal(err.message, "a duration needs a unit, as in 90s");
    assert_true(cli_read_until("now", &cli, offsetof(struct cli, until), &err));
    assert_int_equal(cli.until, UNTIL_NOW);
    assert_true(cli_read_until("16/B374D848", &cli, offsetof(struct cli, until), &err));
    assert_int_equal(cli.until, UNTIL_LSN);
    assert_true(cli.until_lsn == UINT64_C(0x16B374D848));
    assert_false(cli_read_until("0/0", &cli, offsetof(struct cli, until), &err));
    assert_false(cli_read_until("tomorrow", &cli, offsetof(struct cli, until), &err));
    assert_string_equal(err.message, "\"tomorrow\" is neither now nor a WAL position such as "
                                     "16/B374D848");
}

/* Every row has what help needs, and a help text that begins with an example of its verb. */
static void verbs_are_whole(void **state)
{
    (void) state;
    for (int i = 0; i < verbs_count; i++) {
        const struct cli_verb *verb = &verbs_all[i];
        char example[64];

        snprintf(example, sizeof(example), "    tailwater %s", verb->name);
        assert_int_equal(strncmp(verb->help, example, strlen(example)), 0);
        assert_true(verb->summary[0] != '\0' && verb->run != NULL);
        assert_ptr_equal(verbs_find(verb->name), verb);
        for (int j = 0; j < verb->noptions; j++) {
            assert_non_null(verb->options[j].read);
            assert_int_equal(verb->options[j].value == NULL,
                             verb->options[j].read == cli_read_flag);
        }
    }
}

/* A remedy names the file exactly where the verb reads one (base/human.c has a list of its own). */
static void remedies_name_the_file(void **state)
{
    (void) state;
    for (int i = 0; i < verbs_count; i++) {
        _cleanup_buf_ struct buf command = {0}, wanted = {0}, out = {0};

        buf_printf(&command, "tailwater %s x", verbs_all[i].name);
        buf_printf(&wanted, "tailwater %s%s x", verbs_all[i].name,
                   verbs_all[i].uses_config ? " -c shop.yaml" : "");
        human_commands(buf_text(&command), "shop.yaml", &out);
        assert_string_equal(buf_text(&out), buf_text(&wanted));
    }
}

/* ---- init ---- */

struct written {
    struct buf text, variables;
    struct arena arena;
    struct config config;
};

static void release(struct written *w)
{
    buf_release(&w->text);
    buf_release(&w->variables);
    arena_release(&w->arena);
}

static void write_and_read(const struct cli *cli, struct written *w)
{
    struct error err = {0};

    *w = (struct written){0};
    if (!verb_init_text(cli, &w->text, &w->variables, &err) ||
        !config_parse("t.yaml", buf_text(&w->text), w->text.len, &w->arena, &w->config, &err))
        fail_msg("%s", err.message);
}

static void init_takes_passwords_out(void **state)
{
    static const struct {
        const char *source, *written, *variables;
    } cases[] = {
        {"host=a dbname=d", "host=a dbname=d", ""},
        {"dbname=d host=a password=hunter2",
         "host=a dbname=d password=${TAILWATER_SOURCE_PASSWORD}", "TAILWATER_SOURCE_PASSWORD\n"},
        {"password = 'hunter2 \\' x' host=a", "host=a password=${TAILWATER_SOURCE_PASSWORD}",
         "TAILWATER_SOURCE_PASSWORD\n"},
        {"password=1 host=a password=hunter2", "host=a password=${TAILWATER_SOURCE_PASSWORD}",
         "TAILWATER_SOURCE_PASSWORD\n"},
        {"postgresql://u:hunter2@h:5433/d",
         "host=h port=5433 dbname=d user=u "
         "password=${TAILWATER_SOURCE_PASSWORD}",
         "TAILWATER_SOURCE_PASSWORD\n"},
        {"postgres://u:hunter%32@h,i/d?application_name=x%20y",
         "host=h,i port=, dbname=d user=u password=${TAILWATER_SOURCE_PASSWORD} "
         "application_name='x y'",
         "TAILWATER_SOURCE_PASSWORD\n"},
        {"postgresql:///d?host=/run/x&p%61ssword=hunter2",
         "host=/run/x dbname=d password=${TAILWATER_SOURCE_PASSWORD}",
         "TAILWATER_SOURCE_PASSWORD\n"},
        {"host=a password=${MINE}", "host=a password=${MINE}", "MINE\n"},
        {"host=a sslpassword=hunter2", "host=a sslpassword=${TAILWATER_SOURCE_SSLPASSWORD}",
         "TAILWATER_SOURCE_SSLPASSWORD\n"},
        {"host='' dbname='it\\'s \\\\ \"here\"'", "host='' dbname='it\\'s \\\\ \"here\"'", ""},
    };

    (void) state;
    setenv("TAILWATER_SOURCE_PASSWORD", "from it", 1);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cli cli = {.source = cases[i].source, .mirror = "host=m"};
        struct written w;
        struct buf line = {0};

        write_and_read(&cli, &w);
        buf_add(&line, "source:\n  conninfo: ");
        buf_add_json(&line, cases[i].written);
        if (strstr(buf_text(&w.text), buf_text(&line)) == NULL)
            fail_msg("not %s in %s", buf_text(&line), buf_text(&w.text));
        assert_null(strstr(buf_text(&w.text), "hunter"));
        assert_string_equal(buf_text(&w.variables), cases[i].variables);
        if (strcmp(cases[i].variables, "TAILWATER_SOURCE_PASSWORD\n") == 0)
            assert_non_null(strstr(w.config.source.conninfo, "password='from it'"));
        buf_release(&line);
        release(&w);
    }
}

static void init_says_what_is_wrong(void **state)
{
    static const struct {
        struct cli cli;
        const char *message;
    } cases[] = {
        {{.source = "host=a"}, "init needs --source and --mirror"},
        {{.source = "host=a", .mirror = "a"},
         "option --mirror: not a connection string that libpq can read: missing \"=\" after \"a\" "
         "in connection info string"},
        {{.source = "password=hun ter2", .mirror = "host=b"},
         "option --source: not a connection string that libpq can read"},
        {{.source = "postgres://u:hunter2@[x/d", .mirror = "host=b"},
         "option --source: not a connection string that libpq can read"},
        {{.source = "host=a", .mirror = "host=b", .tables = "orders"},
         "option --tables: a table is named with its schema"},
        {{.source = "host=a", .mirror = "host=b", .pipeline = "a-b"},
         "option --pipeline: \"a-b\" is not a plain name: only a-z, 0-9 and _"},
    };

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf text = {0}, variables = {0};
        struct error err = {0};

        assert_false(verb_init_text(&cases[i].cli, &text, &variables, &err));
        assert_string_equal(err.message, cases[i].message);
        buf_release(&text);
        buf_release(&variables);
    }
}

/* Takes "# " off every line behind the first three that holds a key and is not an example. */
static void uncomment(const char *text, struct buf *out)
{
    for (int number = 1; *text != '\0'; number++) {
        size_t len = strcspn(text, "\n"), indent = strspn(text, " ");
        bool is_key = number > 3 && text[indent] == '#' && text[indent + 2] != '-' &&
                      strncmp(text + indent, "# readers", 9) != 0;

        buf_add_bytes(out, text, is_key ? indent : len);
        if (is_key)
            buf_add_bytes(out, text + indent + 2, len - indent - 2);
        buf_add_char(out, '\n');
        text += len + 1;
    }
}

/* The commented keys are real ones, and show the defaults. */
static void init_shows_the_defaults(void **state)
{
    struct cli cli = {.source = "host=a", .mirror = "host=b"};
    struct buf text = {0};
    struct written w;
    struct config c;
    struct error err;

    (void) state;
    write_and_read(&cli, &w);
    uncomment(buf_text(&w.text), &text);
    if (!config_parse("t.yaml", buf_text(&text), text.len, &w.arena, &c, &err))
        fail_msg("%s in\n%s", err.message, buf_text(&text));
    assert_non_null(strstr(buf_text(&text), "\n  max_read_rate: 0"));
    assert_non_null(strstr(buf_text(&text), "\nlog: {"));
    assert_string_equal(c.pipeline, w.config.pipeline);
    assert_string_equal(c.source.plugin, w.config.source.plugin);
    assert_int_equal(c.source.heartbeat, w.config.source.heartbeat);
    assert_true(c.source.wal_guard.warn_bytes == w.config.source.wal_guard.warn_bytes);
    assert_true(c.source.wal_guard.critical_bytes == w.config.source.wal_guard.critical_bytes);
    assert_true(c.source.max_read_rate_bytes == w.config.source.max_read_rate_bytes);
    assert_string_equal(c.mirror.table_schema, w.config.mirror.table_schema);
    assert_string_equal(c.mirror.view_schema, w.config.mirror.view_schema);
    assert_int_equal(c.mirror.indexes.kind, w.config.mirror.indexes.kind);
    assert_true(c.purge.after_us == w.config.purge.after_us);
    assert_true(c.apply.max_rows == w.config.apply.max_rows);
    assert_true(c.apply.max_bytes == w.config.apply.max_bytes);
    assert_int_equal(c.copy.workers, w.config.copy.workers);
    assert_int_equal(c.log.format, w.config.log.format);
    assert_int_equal(c.log.level, w.config.log.level);
    assert_int_equal(c.ntables, 1);
    buf_release(&text);
    release(&w);
}

static void init_takes_its_options(void **state)
{
    struct cli cli = {.source = "host=a",
                      .mirror = "host=b",
                      .tables = "sales.\"Order Lines\"",
                      .pipeline = "a234567890123456789012345678901234567890"};
    struct written w;

    (void) state;
    write_and_read(&cli, &w);
    assert_string_equal(w.config.pipeline, cli.pipeline);
    assert_string_equal(w.config.tables[0].name, "Order Lines");
    release(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses),
        cmocka_unit_test(accepts),
        cmocka_unit_test(actions_are_found),
        cmocka_unit_test(option_values),
        cmocka_unit_test(verbs_are_whole),
        cmocka_unit_test(remedies_name_the_file),
        cmocka_unit_test(init_takes_passwords_out),
        cmocka_unit_test(init_says_what_is_wrong),
        cmocka_unit_test(init_shows_the_defaults),
        cmocka_unit_test(init_takes_its_options),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
