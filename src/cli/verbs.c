/*
 * The table of verbs.  To add one: write src/cli/verb_NAME.c with "int verb_NAME(struct cli *cli)",
 * declare that in cli.h, and add its row here; options and help come from the row, so that the
 * parser, "help" and --help cannot disagree.  A help text begins with an example.
 */
#include "cli/cli.h"

#include <string.h>

#define FIELD(name)    offsetof(struct cli, name)
#define OPTIONS(array) .options = (array), .noptions = (int) (sizeof(array) / sizeof((array)[0]))

static const char init_help[] =
    "    tailwater init --source \"host=prod dbname=shop user=tailwater\" \\\n"
    "                   --mirror \"host=dwh dbname=reports user=tailwater\" > tailwater.yaml\n"
    "\n"
    "Writes a small commented configuration to standard output, and what to do next to standard\n"
    "error.  Connects to nothing.  Connection strings are libpq's, key=value or URI.  A password "
    "in\n"
    "one is not written: the configuration gets ${TAILWATER_SOURCE_PASSWORD} or\n"
    "${TAILWATER_MIRROR_PASSWORD}, which are read from the environment.\n";

static const struct cli_option init_options[] = {
    {"source", 0, "CONNINFO", "the database to read from", cli_read_text, FIELD(source)},
    {"mirror", 0, "CONNINFO", "the database to write to", cli_read_text, FIELD(mirror)},
    {"tables", 0, "GLOB", "the tables to mirror; default public.*", cli_read_text, FIELD(tables)},
    {"pipeline", 0, "NAME", "names the slot tailwater_NAME; default main", cli_read_text,
     FIELD(pipeline)},
};

static const char check_help[] =
    "    tailwater check\n"
    "\n"
    "Looks at both servers, at both roles and at every table that the configuration takes, and\n"
    "lists what stands in the way, each with its remedy: the SQL or the setting.  Changes "
    "nothing.\n"
    "Exit code 0: run can start; 3: something has to be done first; 4 and 5: the source, the "
    "mirror\n"
    "cannot be reached.\n";

static const struct cli_option check_options[] = {
    {"json", 0, NULL, "the findings as JSON", cli_read_flag, FIELD(is_json)},
};

static const char run_help[] = "    tailwater run\n"
                               "    tailwater run --until now\n"
                               "\n"
                               "Does what is missing (control schema, publication, slot, "
                               "mirror tables, initial copy) and then\n"
                               "follows the source, until SIGTERM or an interrupt ends it.  "
                               "It may be killed at any moment and\n"
                               "started again.  Writes a log to standard error.\n";

static const struct cli_option run_options[] = {
    {"until", 0, "now|LSN", "stop when the mirror has what the source has now, or has at LSN",
     cli_read_until, FIELD(until)},
};

static const char status_help[] = "    tailwater status --watch\n"
                                  "    tailwater status --listen 127.0.0.1:8433\n"
                                  "\n"
                                  "Shows how far the mirror is behind, what the slot makes "
                                  "the source keep, and the state of each\n"
                                  "table.  --listen serves what http.listen has the replicator "
                                  "serve, also while there is none.\n";

static const struct cli_option status_options[] = {
    {"json", 0, NULL, "as JSON", cli_read_flag, FIELD(is_json)},
    {"watch", 0, NULL, "again every two seconds, until interrupted", cli_read_flag,
     FIELD(is_watching)},
    {"listen", 0, "ADDRESS:PORT", "serve the status page and metrics, until interrupted",
     cli_read_text, FIELD(listen)},
};

static const char purge_help[] =
    "    tailwater purge --older-than 7d --dry-run\n"
    "\n"
    "Removes deleted rows that the mirror tables still keep: those deleted longer ago than\n"
    "--older-than says or, without it, than the configuration (purge.after, purge_after) says.\n";

static const struct cli_option purge_options[] = {
    {"older-than", 0, "DURATION", "as in 7d; 0 for all", cli_read_duration, FIELD(older_than_us)},
    {"dry-run", 0, NULL, "count only", cli_read_flag, FIELD(is_dry_run)},
    {"json", 0, NULL, "as JSON", cli_read_flag, FIELD(is_json)},
};

static const char ledger_help[] =
    "    tailwater ledger status\n"
    "    tailwater ledger peek order --consumer crm\n"
    "    tailwater ledger why order 4711\n"
    "    tailwater ledger stats --candidates\n"
    "\n"
    "Looks into the ledger: the keys of declared facts that were affected by what was applied.\n"
    "  status          how far each consumer of each fact is, and what is kept\n"
    "  peek FACT       the keys that a consumer has not read yet, or the newest of all\n"
    "  why FACT KEY…   the batches that put a key there: through which dimension, LSN, times;\n"
    "                  a key that begins with a dash behind --: tailwater ledger why order -- -1\n"
    "  stats           what each dimension caused, by the hour: rows changed, keys affected;\n"
    "                  --candidates estimates it for tables that a fact does not declare yet,\n"
    "                  found by the foreign keys of the source\n";

static const struct cli_option ledger_options[] = {
    {"consumer", 0, "NAME", "peek: what this one has not read", cli_read_text, FIELD(consumer)},
    {"limit", 0, "N", "peek, why: how many at most; default 100", cli_read_count, FIELD(limit)},
    {"candidates", 0, NULL, "stats: of tables that are not declared", cli_read_flag,
     FIELD(is_candidates)},
    {"json", 0, NULL, "as JSON", cli_read_flag, FIELD(is_json)},
};

static const char lineage_help[] =
    "    tailwater lineage\n"
    "    tailwater lineage order --format dot | dot -Tsvg > order.svg\n"
    "\n"
    "What leads where: source tables, the facts that they reach and by which joins, derived "
    "tables,\n"
    "feeds, and the views over live views and derived tables that the mirror has.  Of one fact: "
    "what\n"
    "it is made of, and what is made of it.\n";

static const struct cli_option lineage_options[] = {
    {"format", 0, "text|json|dot", "how; dot is for Graphviz", cli_read_text, FIELD(format)},
    {"json", 0, NULL, "as JSON", cli_read_flag, FIELD(is_json)},
};

static const char verify_help[] =
    "    tailwater verify\n"
    "    tailwater verify public.orders --values\n"
    "\n"
    "Compares mirror tables with the source, all of them or those named, while both are busy: "
    "each\n"
    "table at one snapshot, every row.  Lists the keys of rows that are missing in the mirror, "
    "are\n"
    "different there (with the columns) or too many.  Changes nothing.  A running replicator does "
    "it\n"
    "and is followed here: an interrupt leaves it at work.  With none running this command does "
    "it.\n"
    "Exit code 0: no difference; 3: some; 1: a table could not be compared.\n";

static const struct cli_option verify_options[] = {
    {"values", 0, NULL, "show the values that differ", cli_read_flag, FIELD(is_showing_values)},
    {"json", 0, NULL, "the result as JSON", cli_read_flag, FIELD(is_json)},
};

static const char resync_help[] =
    "    tailwater resync public.orders\n"
    "    tailwater resync --all --dry-run\n"
    "    tailwater resync --all --new-slot\n"
    "\n"
    "Makes mirror tables equal to the source again, row by row, while the stream goes on and "
    "reports\n"
    "read them; ends their quarantine.  A running replicator does it and is followed here: an\n"
    "interrupt leaves it at work.  With none running this command does it, and ends.\n"
    "Removes no row of a table of which more than resync.max_delete_fraction would go.\n"
    "--new-slot is for a pipeline whose slot is lost, whose mirror was restored, or whose source "
    "was\n"
    "replaced: it makes the slot anew, and finds and repairs what was missed; then run goes on.\n"
    "Exit code 1: a table could not be made equal.\n";

static const struct cli_option resync_options[] = {
    {"all", 0, NULL, "all tables of the pipeline", cli_read_flag, FIELD(is_all)},
    {"dry-run", 0, NULL, "compare only: as tailwater verify", cli_read_flag, FIELD(is_dry_run)},
    {"force", 0, NULL, "remove however many rows the source does not have", cli_read_flag,
     FIELD(is_forced)},
    {"new-slot", 0, NULL, "first make the replication slot anew; with --all", cli_read_flag,
     FIELD(is_new_slot)},
    {"values", 0, NULL, "--dry-run: show the values that differ", cli_read_flag,
     FIELD(is_showing_values)},
    {"json", 0, NULL, "the result as JSON", cli_read_flag, FIELD(is_json)},
};

static const char table_help[] =
    "    tailwater table add public.orders\n"
    "    tailwater table remove public.carts --keep-tables\n"
    "    tailwater table list\n"
    "\n"
    "Which tables are mirrored.  add and remove change the configuration's file; a running "
    "replicator\n"
    "reads it again and is followed here, with none running this command does the work.\n"
    "  add TABLE…           lists tables, and fills them while the others stream\n"
    "  remove TABLE…        takes them out, and drops mirror table and live view; asks first on a\n"
    "                       terminal, elsewhere it needs --yes.  --keep-tables: they stay as they "
    "are\n"
    "  list                 state, rows, and when they were resynced and verified: how many rows\n"
    "                       differed then\n"
    "  unquarantine TABLE…  resyncs tables that are quarantined, which ends that\n"
    "A table is written as in the configuration: public.orders, sales.\"Order.Lines\".\n"
    "Exit code 1: a table could not be filled, or something depends on one.\n";

static const struct cli_option table_options[] = {
    {"yes", 0, NULL, "remove: do not ask", cli_read_flag, FIELD(is_confirmed)},
    {"keep-tables", 0, NULL, "remove: leave mirror table and live view as they are now",
     cli_read_flag, FIELD(is_keeping_tables)},
    {"json", 0, NULL, "as JSON", cli_read_flag, FIELD(is_json)},
};

static const char feed_help[] =
    "    tailwater feed run crm\n"
    "    tailwater feed crm --dry-run 4711\n"
    "    tailwater feed status\n"
    "\n"
    "Sends the documents of changed keys to a receiver (feeds: in the configuration).  The "
    "replicator\n"
    "runs feeds itself; feed run is for a process of its own, which needs the mirror alone.\n"
    "  run NAME                until SIGTERM or an interrupt; --until now: until nothing is left\n"
    "  status                  how each feed is, what it has sent, how late it is\n"
    "  pause NAME [REASON]     sends nothing until it is resumed; the ledger keeps the changes\n"
    "  resume NAME             goes on\n"
    "  dead NAME               documents that were refused, with the receiver's answers\n"
    "  retry NAME [KEY...]     tries refused documents again now; without keys: all of them\n"
    "  drop NAME               forgets what was sent, and lets the ledger go\n"
    "  NAME --dry-run KEY...   prints the documents of these keys, and sends nothing\n"
    "  NAME --resend KEY...    sends these keys again, changed or not; --resend --all: every key\n"
    "A key of several parts is written with commas: 7,2026-11-22.\n";

static const struct cli_option feed_options[] = {
    {"json", 0, NULL, "status and dead: as JSON", cli_read_flag, FIELD(is_json)},
    {"until", 0, "now", "run: stop when nothing is left to send", cli_read_until, FIELD(until)},
    {"dry-run", 0, NULL, "print documents", cli_read_flag, FIELD(is_dry_run)},
    {"resend", 0, NULL, "send again, changed or not", cli_read_flag, FIELD(is_resend)},
    {"all", 0, NULL, "every key", cli_read_flag, FIELD(is_all)},
};

static const char refresh_help[] =
    "    tailwater refresh bill --once\n"
    "    tailwater refresh bill --full --verify\n"
    "\n"
    "Keeps the derived table of a fact: recomputes the keys that the ledger has for it, until an\n"
    "interrupt; a running replicator does that by itself.\n"
    "  --once           until nothing is left to do\n"
    "  --full           all keys, writing only what differs, and says how many were wrong; keys "
    "that\n"
    "                   are still pending do not count\n"
    "  --full --verify  the same, and writes nothing\n"
    "Exit code 3: keys could not be computed, or were wrong.\n";

static const struct cli_option refresh_options[] = {
    {"once", 0, NULL, "until nothing is left to do", cli_read_flag, FIELD(is_once)},
    {"full", 0, NULL, "all keys, not only those of the ledger", cli_read_flag, FIELD(is_full)},
    {"verify", 0, NULL, "with --full: compare, and write nothing", cli_read_flag,
     FIELD(is_verifying)},
    {"json", 0, NULL, "the result as JSON", cli_read_flag, FIELD(is_json)},
};

static const char backfill_help[] =
    "    tailwater backfill sales_day --from 2024-01-01 --to 2024-02-01 --chunk 1d --parallel 7\n"
    "    tailwater backfill bill --where \"created_at >= '2024-01-01'\" --chunk 50000\n"
    "    tailwater backfill bill --pause 12\n"
    "\n"
    "Recomputes a part of a fact's derived table, in chunks of keys, each a transaction; fresh "
    "keys\n"
    "overtake it.  What is done stays done: after an interrupt --resume goes on, and so does a "
    "running\n"
    "replicator.  Without a range the fact's lookback says how far back.\n";

static const struct cli_option backfill_options[] = {
    {"from", 0, "VALUE", "keys from here on, by the key's first column", cli_read_text,
     FIELD(from)},
    {"to", 0, "VALUE", "and below this one", cli_read_text, FIELD(to)},
    {"where", 0, "SQL", "keys of rows of the fact's table that are like this", cli_read_text,
     FIELD(where)},
    {"all", 0, NULL, "all keys", cli_read_flag, FIELD(is_all)},
    {"chunk", 0, "SIZE",
     "keys, or a duration: 50000 (default; 200000 where the query has {keys}), 1d", cli_read_text,
     FIELD(chunk)},
    {"parallel", 0, "N", "chunks at the same time; default 1", cli_read_text, FIELD(parallel)},
    {"share", 0, "PERCENT", "of the time to work; it rests in between", cli_read_text,
     FIELD(share)},
    {"keys", 0, NULL, "give the keys to all consumers of the fact, by the ledger", cli_read_flag,
     FIELD(is_keys)},
    {"pause", 0, "ID", "begin no further chunk", cli_read_text, FIELD(pause)},
    {"resume", 0, "ID", "go on with one that was paused or interrupted", cli_read_text,
     FIELD(resume)},
    {"cancel", 0, "ID", "end one; what is done stays", cli_read_text, FIELD(cancel)},
    {"json", 0, NULL, "the result as JSON", cli_read_flag, FIELD(is_json)},
};

static const char destroy_help[] =
    "    tailwater destroy --dry-run\n"
    "\n"
    "Ends the pipeline.  Removes what run made for it: on the source the replication slot and the\n"
    "publication, on the mirror the live views, the mirror tables and the pipeline's rows in the\n"
    "control schema.  Nothing that something else depends on goes.  Asks first on a terminal;\n"
    "elsewhere it needs --yes.\n";

static const struct cli_option destroy_options[] = {
    {"dry-run", 0, NULL, "only say what would go", cli_read_flag, FIELD(is_dry_run)},
    {"yes", 0, NULL, "do not ask", cli_read_flag, FIELD(is_confirmed)},
    {"keep-tables", 0, NULL, "leave mirror tables and live views as they are now", cli_read_flag,
     FIELD(is_keeping_tables)},
    {"skip-source", 0, NULL, "the source is gone: clean up the mirror alone", cli_read_flag,
     FIELD(is_skipping_source)},
    {"skip-mirror", 0, NULL, "the mirror is gone: free the source of slot and publication",
     cli_read_flag, FIELD(is_skipping_mirror)},
};

static const char version_help[] = "    tailwater version --json\n"
                                   "\n"
                                   "Prints the version.\n";

static const struct cli_option version_options[] = {
    {"json", 0, NULL, "as JSON", cli_read_flag, FIELD(is_json)},
};

static const char help_help[] = "    tailwater help init\n"
                                "\n"
                                "Explains a verb and its options; without one, lists the verbs.\n";

static const struct cli_option help_options[] = {
    {"json", 0, NULL, "verbs and options as JSON", cli_read_flag, FIELD(is_json)},
};

const struct cli_verb verbs_all[] = {
    {"init", "write a first configuration", init_help, OPTIONS(init_options), .run = verb_init},
    {"check", "say what is missing, and the remedy", check_help, OPTIONS(check_options), true,
     .run = verb_check},
    {"run", "copy what is missing, then follow the source", run_help, OPTIONS(run_options), true,
     .is_logged = true, .run = verb_run},
    {"status", "show lag and state", status_help, OPTIONS(status_options), true,
     .run = verb_status},
    {"purge", "remove deleted rows that are kept", purge_help, OPTIONS(purge_options), true,
     .run = verb_purge},
    {"ledger", "look at affected keys and their consumers", ledger_help, OPTIONS(ledger_options),
     true, .operand = "ACTION …", .max_operands = CLI_MAX_OPERANDS, .run = verb_ledger},
    {"lineage", "show what leads where", lineage_help, OPTIONS(lineage_options), true, true,
     .operand = "[FACT]", .max_operands = 1, .run = verb_lineage},
    {"verify", "compare tables with the source", verify_help, OPTIONS(verify_options), true,
     .operand = "[TABLE …]", .max_operands = CLI_MAX_OPERANDS, .run = verb_verify},
    {"feed", "send changed rows to a receiver", feed_help, OPTIONS(feed_options), true, true,
     .operand = "ACTION …", .max_operands = CLI_MAX_OPERANDS, .run = verb_feed},
    {"resync", "make tables equal to the source again", resync_help, OPTIONS(resync_options), true,
     .operand = "[TABLE …]", .max_operands = CLI_MAX_OPERANDS, .run = verb_resync},
    {"table", "add, remove and list tables", table_help, OPTIONS(table_options), true,
     .operand = "ACTION …", .max_operands = CLI_MAX_OPERANDS, .run = verb_table},
    {"refresh", "keep the derived table of a fact", refresh_help, OPTIONS(refresh_options), true,
     .operand = "FACT", .max_operands = 1, .run = verb_refresh},
    {"backfill", "recompute a history of a fact", backfill_help, OPTIONS(backfill_options), true,
     .operand = "FACT", .max_operands = 1, .run = verb_backfill},
    {"destroy", "end the pipeline, and remove what it made", destroy_help, OPTIONS(destroy_options),
     true, .run = verb_destroy},
    {"version", "print the version", version_help, OPTIONS(version_options), .run = verb_version},
    {"help", "explain a verb", help_help, OPTIONS(help_options), .operand = "[VERB]",
     .max_operands = 1, .run = verb_help},
};

const int verbs_count = (int) (sizeof(verbs_all) / sizeof(verbs_all[0]));

const struct cli_verb *verbs_find(const char *name)
{
    for (int i = 0; i < verbs_count; i++)
        if (strcmp(verbs_all[i].name, name) == 0)
            return &verbs_all[i];
    return NULL;
}
