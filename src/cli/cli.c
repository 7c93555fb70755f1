/*
 * Parsing of the command line by the tables in verbs.c.
 *
 * Written by hand rather than over getopt_long(): options belong to verbs, the nearest right name
 * is to be suggested, an option given twice is refused, and abbreviations are not guessed at, so
 * that a new option never changes what an old script means.  Accepted forms: --name VALUE,
 * --name=VALUE, -c VALUE, -cVALUE; options and operands mix; "--" ends the options.
 */
#include "cli/cli.h"

#include "base/human.h"
#include "base/log.h"
#include "pg/conninfo.h"
#include "pg/pg.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_CONFIG "tailwater.yaml"
#define MAX_VERBS      32

static const struct cli_option config_option = {
    "config",      'c',
    "FILE",        "the configuration; default " DEFAULT_CONFIG,
    cli_read_text, offsetof(struct cli, config_file)};
static const struct cli_option help_option = {
    "help", 'h', NULL, "this text", cli_read_flag, offsetof(struct cli, is_help)};

struct parser {
    struct cli *cli;
    int argc, next;
    char **argv;
};

const struct cli_option *cli_common_option(const struct cli_verb *verb, int i)
{
    if (i == 0)
        return &help_option;
    return i == 1 && (verb == NULL || verb->uses_config) ? &config_option : NULL;
}

/* The i-th option that may stand here: the verb's own, then the common ones; NULL past the end. */
static const struct cli_option *option_at(const struct cli_verb *verb, int i)
{
    int own = verb != NULL ? verb->noptions : 0;

    return i < own ? &verb->options[i] : cli_common_option(verb, i - own);
}

static bool unknown_option(const struct cli_verb *verb, const char *shown, const char *name,
                           struct error *err)
{
    const char *names[CLI_MAX_OPTIONS], *near;
    const struct cli_option *option;
    int count = 0;

    while (count < CLI_MAX_OPTIONS && (option = option_at(verb, count)) != NULL)
        names[count++] = option->name;
    near = config_nearest(name, names, count);
    if (verb == NULL)
        error_set(err, ERROR_CONFIG, "unknown option %s before the verb", shown);
    else if (near != NULL)
        error_set(err, ERROR_CONFIG, "%s: unknown option %s; did you mean --%s?", verb->name, shown,
                  near);
    else
        error_set(err, ERROR_CONFIG, "%s: unknown option %s", verb->name, shown);
    if (verb == NULL)
        return error_hint(err, "the options of a verb follow it; run: tailwater help");
    return error_hint(err, "run: tailwater help %s", verb->name);
}

/* The option whose name is the first len bytes of name, or NULL and an error; shown is the argument
 * with its dashes. */
static const struct cli_option *find_option(const struct parser *parser, const char *shown,
                                            bool is_letter, const char *name, size_t len,
                                            struct error *err)
{
    const struct cli_option *option;
    char word[64], text[68];

    for (int i = 0; (option = option_at(parser->cli->verb, i)) != NULL; i++)
        if (is_letter ? option->letter == name[0]
                      : strlen(option->name) == len && strncmp(option->name, name, len) == 0)
            return option;
    snprintf(word, sizeof(word), "%.*s", (int) len, name);
    snprintf(text, sizeof(text), "%.*s%s", is_letter ? 1 : 2, shown, word);
    unknown_option(parser->cli->verb, text, word, err);
    return NULL;
}

static bool parse_option(struct parser *parser, const char *arg, struct error *err)
{
    bool is_letter = arg[1] != '-';
    const char *name = arg + (is_letter ? 1 : 2), *value = NULL;
    size_t len = is_letter ? 1 : strcspn(name, "=");
    const struct cli_option *option = find_option(parser, arg, is_letter, name, len, err);
    struct cli *cli = parser->cli;

    if (option == NULL)
        return false;
    if (name[len] != '\0')
        value = name + len + !is_letter;
    for (int i = 0; i < cli->ngiven; i++)
        if (cli->given[i] == option)
            return error_set(err, ERROR_CONFIG, "option --%s is given twice", option->name);
    if (option->value == NULL && value != NULL)
        return error_set(err, ERROR_CONFIG, "option --%s takes no value", option->name);
    if (option->value != NULL && value == NULL) {
        if (parser->next == parser->argc || parser->argv[parser->next][0] == '-')
            return error_set(err, ERROR_CONFIG, "option --%s needs its value: --%s %s",
                             option->name, option->name, option->value);
        value = parser->argv[parser->next++];
    }
    if (cli->ngiven < CLI_MAX_OPTIONS)
        cli->given[cli->ngiven++] = option;
    if (option->value != NULL && value[0] == '\0')
        return error_set(err, ERROR_CONFIG, "option --%s: its value is empty", option->name);
    if (!option->read(value, cli, option->offset, err))
        return error_wrap(err, "option --%s", option->name);
    return true;
}

bool cli_find_verb(const char *name, const struct cli_verb **ret_verb, struct error *err)
{
    const char *names[MAX_VERBS], *near;
    const struct cli_verb *verb = verbs_find(name);
    int count = 0;

    if (verb != NULL) {
        *ret_verb = verb;
        return true;
    }
    for (; count < verbs_count && count < MAX_VERBS; count++)
        names[count] = verbs_all[count].name;
    near = config_nearest(name, names, count);
    if (near != NULL)
        error_set(err, ERROR_CONFIG, "unknown verb \"%s\"; did you mean \"%s\"?", name, near);
    else
        error_set(err, ERROR_CONFIG, "unknown verb \"%s\"", name);
    return error_hint(err, "run: tailwater help");
}

/* What only the whole line shows. */
static bool check_line(const struct parser *parser, struct error *err)
{
    const struct cli *cli = parser->cli;

    if (cli->is_help)
        return true;
    if (cli->verb == NULL) {
        error_set(err, ERROR_CONFIG, "no verb given");
        return error_hint(err, "run: tailwater help");
    }
    for (int i = 0; i < cli->ngiven && !cli->verb->uses_config; i++)
        if (cli->given[i] == &config_option)
            return error_set(err, ERROR_CONFIG, "%s reads no configuration: it takes no --config",
                             cli->verb->name);
    return true;
}

bool cli_parse(int argc, char **argv, struct cli *ret_cli, struct error *err)
{
    struct parser parser = {.cli = ret_cli, .argc = argc, .argv = argv, .next = 1};
    bool is_ended = false;

    *ret_cli = (struct cli){.config_file = DEFAULT_CONFIG, .older_than_us = -1};
    if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0))
        return cli_find_verb("version", &ret_cli->verb, err);
    while (parser.next < argc) {
        char *arg = argv[parser.next++];

        if (!is_ended && strcmp(arg, "--") == 0) {
            is_ended = true;
        } else if (!is_ended && arg[0] == '-' && arg[1] != '\0') {
            if (!parse_option(&parser, arg, err))
                return false;
        } else if (ret_cli->verb == NULL) {
            if (!cli_find_verb(arg, &ret_cli->verb, err))
                return false;
        } else if (ret_cli->noperands < ret_cli->verb->max_operands) {
            ret_cli->operands[ret_cli->noperands++] = arg;
        } else {
            error_set(err, ERROR_CONFIG, "%s: unexpected argument \"%s\"", ret_cli->verb->name,
                      arg);
            return error_hint(err, "run: tailwater help %s", ret_cli->verb->name);
        }
    }
    return check_line(&parser, err);
}

/* ---- actions ---- */

static bool is_option(const struct cli_action *action)
{
    return strncmp(action->name, "--", 2) == 0;
}

/* Is name one of the words of list? */
static bool has_word(const char *list, const char *name)
{
    const size_t len = strlen(name);

    for (const char *p = list; *p != '\0'; p += strcspn(p, " "), p += strspn(p, " "))
        if (strcspn(p, " ") == len && strncmp(p, name, len) == 0)
            return true;
    return false;
}

static bool has_option(const struct cli *cli, const char *name)
{
    for (int i = 0; i < cli->ngiven; i++)
        if (strcmp(cli->given[i]->name, name) == 0)
            return true;
    return false;
}

/* "status, dead and run": those that the first operand may name, or those with this option. */
static void list_actions(const struct cli_action *actions, int count, const char *option,
                         const char *last, char *text, size_t size)
{
    const char *names[CLI_MAX_OPERANDS];
    size_t at = 0;
    int n = 0;

    for (int i = 0; i < count && n < CLI_MAX_OPERANDS; i++)
        if (option != NULL ? has_word(actions[i].options, option) : !is_option(&actions[i]))
            names[n++] = actions[i].name;
    text[0] = '\0';
    for (int i = 0; i < n && at < size; i++)
        at += (size_t) snprintf(text + at, size - at, "%s%s",
                                i == 0       ? ""
                                : i == n - 1 ? last
                                             : ", ",
                                names[i]);
}

static bool no_action(const struct cli *cli, const struct cli_action *actions, int count,
                      struct error *err)
{
    const char *names[CLI_MAX_OPERANDS], *near = NULL;
    char all[256];
    int n = 0;

    for (int i = 0; i < count && n < CLI_MAX_OPERANDS; i++)
        if (!is_option(&actions[i]))
            names[n++] = actions[i].name;
    if (cli->noperands > 0)
        near = config_nearest(cli->operands[0], names, n);
    list_actions(actions, count, NULL, " or ", all, sizeof(all));
    if (cli->noperands == 0)
        error_set(err, ERROR_CONFIG, "%s: say what: %s", cli->verb->name, all);
    else if (near != NULL)
        error_set(err, ERROR_CONFIG, "%s: unknown action \"%s\"; did you mean \"%s\"?",
                  cli->verb->name, cli->operands[0], near);
    else
        error_set(err, ERROR_CONFIG, "%s: unknown action \"%s\"; there are %s", cli->verb->name,
                  cli->operands[0], all);
    return error_hint(err, "run: tailwater help %s", cli->verb->name);
}

/* Operands and options, against the row. */
static bool check_action(const struct cli *cli, const struct cli_action *actions, int count,
                         const struct cli_action *action, struct error *err)
{
    const int noperands = cli->noperands - !is_option(action);
    char with[256] = "";

    for (int i = 0; i < cli->ngiven && with[0] == '\0'; i++)
        if (!has_word(action->options, cli->given[i]->name)) {
            list_actions(actions, count, cli->given[i]->name, " and ", with, sizeof(with));
            if (with[0] != '\0')
                error_set(err, ERROR_CONFIG, "%s %s: --%s goes with %s", cli->verb->name,
                          action->name, cli->given[i]->name, with);
        }
    if (with[0] == '\0' && noperands >= action->min && noperands <= action->max)
        return true;
    if (with[0] == '\0')
        error_set(err, ERROR_CONFIG, "%s %s: something is %s", cli->verb->name, action->name,
                  noperands < action->min ? "missing" : "too much");
    return error_hint(err, "%s", action->usage);
}

bool cli_find_action(const struct cli *cli, const struct cli_action *actions, int count,
                     const struct cli_action **ret_action, const char *const **ret_operands,
                     struct error *err)
{
    const struct cli_action *action = NULL;

    for (int i = 0; i < count && action == NULL; i++)
        if (is_option(&actions[i])
                ? has_option(cli, actions[i].name + 2)
                : cli->noperands > 0 && strcmp(cli->operands[0], actions[i].name) == 0)
            action = &actions[i];
    if (action == NULL)
        return no_action(cli, actions, count, err);
    if (!check_action(cli, actions, count, action, err))
        return false;
    *ret_action = action;
    *ret_operands = (const char *const *) cli->operands + !is_option(action);
    return true;
}

static bool check_conninfo(const struct config *config, const char *key, const char *conninfo,
                           struct config_place place, struct error *err)
{
    struct error inner = {0};

    if (conninfo_check(conninfo, &inner))
        return true;
    config_error_at(config, place, err, "%s: %s", key, inner.message);
    return error_hint(err, "%s", inner.hint);
}

bool cli_load_config(struct cli *cli, struct arena *arena, struct config *ret_config,
                     struct error *err)
{
    if (!(cli->verb->is_on_mirror ? config_load_mirror : config_load)(cli->config_file, arena,
                                                                      ret_config, err)) {
        if (access(cli->config_file, F_OK) != 0 && errno == ENOENT)
            error_hint(err, "name the file with -c FILE, or write one: tailwater init --source "
                            "CONNINFO --mirror CONNINFO > " DEFAULT_CONFIG);
        return false;
    }
    pg_show_values(ret_config->log.values);
    log_configure(ret_config->log.format, ret_config->log.level, ret_config->pipeline,
                  ret_config->file);
    return (ret_config->source.conninfo == NULL ||
            check_conninfo(ret_config, "source.conninfo", ret_config->source.conninfo,
                           ret_config->source.conninfo_place, err)) &&
           check_conninfo(ret_config, "mirror.conninfo", ret_config->mirror.conninfo,
                          ret_config->mirror.conninfo_place, err);
}

int cli_fail(const struct cli *cli, const struct error *err)
{
    _cleanup_buf_ struct buf message = {0}, remedy = {0};

    if (cli->is_logged) {
        log_error(LOG_ERROR, "failed", err);
        return error_exit_code(err->kind);
    }
    buf_add_shown(&message, err->message);
    fprintf(stderr, "tailwater: %s", buf_text(&message));
    if (strstr(err->message, err->sqlstate) == NULL) /* what a server said has it already */
        fprintf(stderr, " (SQLSTATE %s)", err->sqlstate);
    fputc('\n', stderr);
    human_commands(err->hint, cli->verb && cli->verb->uses_config ? cli->config_file : NULL,
                   &remedy);
    for (const char *line = buf_text(&remedy); *line != '\0';) {
        size_t len = strcspn(line, "\n");
        _cleanup_buf_ struct buf raw = {0}, shown = {0};

        buf_add_bytes(&raw, line, len);
        buf_add_shown(&shown, buf_text(&raw));
        fprintf(stderr, "  %s\n", buf_text(&shown));
        line += len + (line[len] == '\n');
    }
    return error_exit_code(err->kind);
}

bool cli_read_flag(const char *value, struct cli *cli, size_t offset, struct error *err)
{
    (void) value;
    (void) err;
    *(bool *) ((char *) cli + offset) = true;
    return true;
}

bool cli_read_text(const char *value, struct cli *cli, size_t offset, struct error *err)
{
    (void) err;
    *(const char **) ((char *) cli + offset) = value;
    return true;
}

bool cli_parse_number(const char *text, int64_t max, int64_t *ret_number)
{
    char *end;

    errno = 0;
    *ret_number = strtoll(text, &end, 10);
    return *end == '\0' && errno == 0 && *ret_number >= 1 && *ret_number <= max;
}

bool cli_read_count(const char *value, struct cli *cli, size_t offset, struct error *err)
{
    int64_t count;

    if (!cli_parse_number(value, CLI_MAX_COUNT, &count))
        return error_set(err, ERROR_CONFIG, "\"%.40s\" is not a whole number from 1 to %d", value,
                         CLI_MAX_COUNT);
    *(int *) ((char *) cli + offset) = (int) count;
    return true;
}

bool cli_read_duration(const char *value, struct cli *cli, size_t offset, struct error *err)
{
    return config_parse_duration(value, (int64_t *) ((char *) cli + offset), err);
}

bool cli_read_until(const char *value, struct cli *cli, size_t offset, struct error *err)
{
    enum cli_until *until = (enum cli_until *) ((char *) cli + offset);

    if (strcmp(value, "now") == 0) {
        *until = UNTIL_NOW;
    } else if (lsn_parse(value, &cli->until_lsn) && cli->until_lsn != 0) {
        *until = UNTIL_LSN;
    } else {
        return error_set(err, ERROR_CONFIG,
                         "\"%.40s\" is neither now nor a WAL position such as 16/B374D848", value);
    }
    return true;
}
