/* The one form of a change that both decoders end in. */
#include "tailwater/change.h"

#include <string.h>

static bool same_value(const struct value *a, const struct value *b)
{
    if (a->kind != b->kind)
        return false;
    return a->kind != VALUE_TEXT || (a->len == b->len && memcmp(a->data, b->data, a->len) == 0);
}

void change_normalise(struct change *change)
{
    bool old_says_more = false;

    if (change->kind != CHANGE_UPDATE || change->old == NULL)
        return;
    for (int i = 0; i < change->relation->ncolumns; i++) {
        struct value *value = &change->values[i], *old = &change->old[i];

        if (old->kind == VALUE_ABSENT)
            continue;
        if (value->kind == VALUE_ABSENT)
            *value = *old;
        else if (!same_value(value, old))
            old_says_more = true;
    }
    if (!old_says_more)
        change->old = NULL;
}
