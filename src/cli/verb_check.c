/*
 * tailwater check: the findings, for people or as JSON.
 *
 * For people the errors come first, then the warnings, then what is fine, so that what has to be
 * done stands at the top; at the end one line says what comes next.  Remedies are never wrapped:
 * they are to be copied.
 */
#include "base/human.h"
#include "cli/cli.h"
#include "engine/check.h"
#include "pg/pg.h"

#include <stdio.h>

static void print_line(const char *level, const char *name, int width, const char *arrow,
                       const char *text)
{
    _cleanup_buf_ struct buf shown = {0};

    if (text[0] == '\0')
        return;
    buf_add_shown(&shown, text);
    printf("%-7s  %-*s  %s%s\n", level, width, name, arrow, buf_text(&shown));
}

static void print_finding(const struct finding *finding, int width)
{
    print_line(finding_level_name(finding->level), finding->name, width, "", finding->what);
    print_line("", "", width, "", finding->why);
    print_line("", "", width, "→ ", finding->remedy);
}

static const char *plural(int count)
{
    return count == 1 ? "" : "s";
}

static void print_text(const struct cli *cli, const struct check_report *report)
{
    static const enum finding_level order[] = {FINDING_ERROR, FINDING_WARNING, FINDING_OK};
    _cleanup_buf_ struct buf next = {0};
    int width = 0;

    for (int i = 0; i < report->findings.count; i++) {
        int len = (int) strlen(report->findings.items[i].name);

        width = len > width ? len : width;
    }
    for (size_t level = 0; level < sizeof(order) / sizeof(order[0]); level++) {
        for (int i = 0; i < report->findings.count; i++) {
            if (report->findings.items[i].level == order[level])
                print_finding(&report->findings.items[i], width);
        }
    }
    human_commands(report->kind == ERROR_NONE ? "Next: tailwater run"
                   : report->nerrors == 1     ? "Mend the error, then again: tailwater check"
                                              : "Mend the errors, then again: tailwater check",
                   cli->config_file, &next);
    printf("\n%d error%s, %d warning%s.  %s\n", report->nerrors, plural(report->nerrors),
           report->nwarnings, plural(report->nwarnings), buf_text(&next));
}

static void add_member(struct buf *json, const char *name, const char *value)
{
    buf_printf(json, ",\"%s\":", name);
    buf_add_json(json, value);
}

static void print_json(const struct check_report *report)
{
    _cleanup_buf_ struct buf json = {0};

    buf_printf(&json, "{\"ok\":%s,\"findings\":[", report->kind == ERROR_NONE ? "true" : "false");
    for (int i = 0; i < report->findings.count; i++) {
        const struct finding *finding = &report->findings.items[i];

        buf_add(&json, i ? ",{\"name\":" : "{\"name\":");
        buf_add_json(&json, finding->name);
        add_member(&json, "level", finding_level_name(finding->level));
        add_member(&json, "what", finding->what);
        add_member(&json, "why", finding->why);
        add_member(&json, "remedy", finding->remedy);
        buf_add_char(&json, '}');
    }
    buf_add(&json, "]}");
    puts(buf_text(&json));
}

/* An unreachable server has its own code; anything else that was found has one. */
static int exit_code(const struct check_report *report)
{
    switch (report->kind) {
    case ERROR_NONE:
    case ERROR_SOURCE:
    case ERROR_MIRROR:
        return error_exit_code(report->kind);
    case ERROR_CONFIG:
    case ERROR_FINDINGS:
    case ERROR_SLOT:
    case ERROR_BUSY:
    case ERROR_RETRY:
    case ERROR_DATA:
    case ERROR_PROTOCOL:
    case ERROR_FAILED:
    case ERROR_BUG:
        break;
    }
    return error_exit_code(ERROR_FINDINGS);
}

int verb_check(struct cli *cli)
{
    struct arena arena = {0};
    struct error err = {0};
    struct config config;
    struct check_report report;
    int code;

    if (!cli_load_config(cli, &arena, &config, &err) ||
        !check_run(&config, &arena, &report, &err)) {
        code = cli_fail(cli, &err);
    } else {
        if (cli->is_json)
            print_json(&report);
        else
            print_text(cli, &report);
        code = exit_code(&report);
    }
    arena_release(&arena);
    return code;
}
