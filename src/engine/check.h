/*
 * The check: everything that has to hold before a pipeline can run, as a list of named findings.
 * It changes nothing on either server but for a temporary slot that is gone when it returns, and
 * works with the least-privileged roles (README).  `tailwater check` prints it, `tailwater run`
 * stops on its errors.
 */
#ifndef TAILWATER_CHECK_H
#define TAILWATER_CHECK_H

#include "config/config.h"
#include "source/finding.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>

struct check_report {
    struct finding_list findings; /* in the order in which they were looked at */
    int nerrors, nwarnings;
    /*
     * ERROR_NONE: no finding of level error.  ERROR_SOURCE, ERROR_MIRROR: that server could not be
     * reached, and what can be known without it is in the list.  ERROR_FINDINGS: anything else.
     * error_exit_code() of it is the exit code.
     */
    enum error_kind kind;
};

/* The report is arena's.  False only where a server failed in the middle of it. */
bool check_run(const struct config *config, struct arena *arena, struct check_report *ret_report,
               struct error *err);

#endif
