/* Parses TAILWATER_FAULT at each visit: fault points are for test builds, where simple beats fast.
 */
#include "base/fault.h"

#include <stddef.h>

#ifdef TAILWATER_FAULTS

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const names[] = {
#define X(name, where) #name,
    FAULT_POINTS(X)
#undef X
        NULL};

static atomic_int visits[sizeof(names) / sizeof(names[0])];

const char *const *fault_points(void)
{
    return names;
}

static bool act(const char *action, const char *name, struct error *err)
{
    int millis;

    if (strcmp(action, "kill") == 0)
        raise(SIGKILL);
    if (strcmp(action, "error") == 0)
        return error_set(err, ERROR_RETRY, "fault point %s", name);
    if (sscanf(action, "stall:%d", &millis) == 1)
        nanosleep(&(struct timespec){millis / 1000, (long) (millis % 1000) * 1000000}, NULL);
    return true;
}

bool fault_reach(enum fault_point point, struct error *err)
{
    const char *spec = getenv("TAILWATER_FAULT");
    int visit = atomic_fetch_add(&visits[point], 1) + 1;

    while (spec != NULL && *spec != '\0') {
        char name[64], action[64];
        int wanted = 1;

        if ((sscanf(spec, "%63[a-z_]:%d=%63[^,]", name, &wanted, action) == 3 ||
             sscanf(spec, "%63[a-z_]=%63[^,]", name, action) == 2) &&
            strcmp(name, names[point]) == 0 && visit == wanted)
            return act(action, names[point], err);
        spec = strchr(spec, ',');
        spec = spec ? spec + 1 : NULL;
    }
    return true;
}

#else

const char *const *fault_points(void)
{
    static const char *const none[] = {NULL};

    return none;
}

#endif
