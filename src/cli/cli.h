/*
 * The command line's frame: what a verb is, what was parsed for it, and the few helpers that verbs
 * share.  A verb is one file, verb_NAME.c, with one function; its name, help and options are a row
 * of the table in verbs.c.
 *
 * Standard output carries what was asked for and nothing else; everything said to a person goes to
 * standard error.
 */
#ifndef TAILWATER_CLI_H
#define TAILWATER_CLI_H

#include "base/buf.h"
#include "config/config.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CLI_MAX_OPERANDS 64
#define CLI_MAX_COUNT    1000000
#define CLI_MAX_OPTIONS  32 /* of a verb, the common ones included */

enum cli_until { UNTIL_STOPPED, UNTIL_NOW, UNTIL_LSN };

/* One parsed command line.  Strings point into argv.  A verb sees only the options in its row set;
 * the others keep the value written here. */
struct cli {
    const struct cli_verb *verb;
    const char *config_file; /* -c; "tailwater.yaml" */
    bool is_help;            /* --help: main answers it, no verb sees it */
    bool is_logged;          /* errors are log lines: the verb writes a log */

    bool is_json;           /* --json: check, status, purge, verify, resync, ledger, version */
    bool is_watching;       /* --watch: status */
    const char *listen;     /* --listen: status; NULL where not given */
    bool is_dry_run;        /* --dry-run: purge, resync, destroy */
    bool is_all;            /* --all: resync, backfill */
    bool is_forced;         /* --force: resync */
    bool is_new_slot;       /* --new-slot: resync */
    bool is_showing_values; /* --values: verify, resync */
    int64_t older_than_us;  /* --older-than: purge; -1 where not given */
    enum cli_until until;   /* --until: run */
    lsn_t until_lsn;        /* UNTIL_LSN */
    bool is_confirmed;      /* --yes: destroy and table remove do not ask */
    bool
        is_keeping_tables; /* --keep-tables: destroy, table remove: mirror tables and live views stay */
    bool is_skipping_source, is_skipping_mirror; /* --skip-…: destroy does not go there */

    const char *source, *mirror;   /* init: connection strings */
    const char *tables, *pipeline; /* init; NULL where not given */

    bool is_candidates;   /* --candidates: ledger stats */
    const char *consumer; /* --consumer: ledger peek; NULL where not given */
    int limit;            /* --limit: ledger peek, why; 0 where not given */

    bool is_resend;                      /* --resend: feed */
    bool is_once, is_full, is_verifying; /* refresh */
    const char *from, *to, *where;       /* backfill; NULL where not given … */
    const char *chunk, *parallel, *share;
    const char *pause, *resume, *cancel; /* … ids */
    bool is_keys;                        /* --keys: backfill */
    const char *format;                  /* --format: lineage; NULL where not given */

    const struct cli_option *given[CLI_MAX_OPTIONS]; /* the options that were there */
    int ngiven;

    int noperands; /* what stands behind the verb without dashes, as many as its row allows */
    const char *operands[CLI_MAX_OPERANDS + 1]; /* NULL behind the last */
};

struct cli_option {
    const char *name;  /* without its dashes */
    char letter;       /* its short form; 0 for none */
    const char *value; /* what help calls its value; NULL for a flag */
    const char *help;
    bool (*read)(const char *value, struct cli *cli, size_t offset, struct error *err);
    size_t offset; /* of its field in struct cli */
};

struct cli_verb {
    const char *name;
    const char *summary; /* one line, for the list of verbs */
    const char *help;    /* begins with an example */
    const struct cli_option *options;
    int noptions;
    bool uses_config;  /* takes -c */
    bool is_on_mirror; /* … which may do without source and tables */
    bool is_logged;
    const char *operand; /* what its operands are called; NULL where it takes none */
    int max_operands;
    int (*run)(struct cli *cli);
};

/* What a verb does where its first operand, or an option, says what: a row of the verb's own table. */
struct cli_action {
    const char *name;  /* the operand; with dashes: the option that stands for it */
    const char *usage; /* "tailwater feed run NAME" */
    int min, max;      /* operands, those behind the name */
    const char
        *options; /* that go with it: "json until"; others of the verb, which some other action
                            names, do not; "" for none */
    bool (*run)(void *work, struct error *err);
};

/* ---- verbs.c: the table; verbs in the order in which a new user meets them ---- */

extern const struct cli_verb verbs_all[];
extern const int verbs_count;

const struct cli_verb *verbs_find(const char *name); /* NULL where there is none */

/* ---- verb_*.c.  Each returns the process's exit code ---- */

int verb_run(struct cli *cli);
int verb_init(struct cli *cli);
int verb_check(struct cli *cli);
int verb_status(struct cli *cli);
int verb_purge(struct cli *cli);
int verb_ledger(struct cli *cli);
int verb_lineage(struct cli *cli);
int verb_resync(struct cli *cli);
int verb_verify(struct cli *cli);
int verb_table(struct cli *cli);
int verb_feed(struct cli *cli);
int verb_refresh(struct cli *cli);
int verb_backfill(struct cli *cli);
int verb_destroy(struct cli *cli);
int verb_version(struct cli *cli);
int verb_help(struct cli *cli);

/* What init prints, by cli->source, mirror, tables and pipeline; and the environment variables that
 * it reads, one a line. */
bool verb_init_text(const struct cli *cli, struct buf *ret_text, struct buf *ret_variables,
                    struct error *err);

/* refresh --full: plans a backfill of that kind over all keys of the fact ("full" or "verify"), works
 * on it to its end, and prints how it was. */
int verb_backfill_all(struct cli *cli, const struct config *config, const struct config_fact *fact,
                      const char *kind);

/* A job for the tables that wish names, followed and its result printed; the exit code. */
struct follow;
struct job_wish;
int verb_resync_follow(struct follow *follow, struct job_wish wish);

/* What "tailwater help" and "tailwater help VERB" print. */
void verb_help_list(FILE *out);
void verb_help_verb(FILE *out, const struct cli_verb *verb);

/* ---- cli.c ---- */

/* argv into *ret_cli.  Errors are ERROR_CONFIG with the nearest right name; ret_cli->verb is then
 * the verb as far as it was known, or NULL. */
bool cli_parse(int argc, char **argv, struct cli *ret_cli, struct error *err);

/* The verb of that name, or ERROR_CONFIG with the nearest right one. */
bool cli_find_verb(const char *name, const struct cli_verb **ret_verb, struct error *err);

/* The options that a verb has without listing them, one by one; NULL past the last. */
const struct cli_option *cli_common_option(const struct cli_verb *verb, int i);

/* Reads the file that -c names, sets up the log by it, and sees to it that libpq can read both
 * connection strings. */
bool cli_load_config(struct cli *cli, struct arena *arena, struct config *ret_config,
                     struct error *err);

/* The row that the line asks for, ERROR_CONFIG where there is none (with the nearest right name) or
 * where operands and options do not fit it.  *ret_operands: the first of its operands. */
bool cli_find_action(const struct cli *cli, const struct cli_action *actions, int count,
                     const struct cli_action **ret_action, const char *const **ret_operands,
                     struct error *err);

/*
 * Says an error on standard error, as "tailwater: …" with its hint below, or as a log line where
 * the verb writes a log.  Returns the exit code, so that a verb can end with return cli_fail(…).
 */
int cli_fail(const struct cli *cli, const struct error *err);

/* Is text a whole number from 1 to max, and nothing else? */
bool cli_parse_number(const char *text, int64_t max, int64_t *ret_number);

/* The readers of option values, for the table. */
bool cli_read_flag(const char *value, struct cli *cli, size_t offset, struct error *err);
bool cli_read_text(const char *value, struct cli *cli, size_t offset, struct error *err);
bool cli_read_count(const char *value, struct cli *cli, size_t offset, struct error *err);
bool cli_read_duration(const char *value, struct cli *cli, size_t offset, struct error *err);
bool cli_read_until(const char *value, struct cli *cli, size_t offset, struct error *err);

#endif
