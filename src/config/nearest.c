/*
 * The nearest right name: edit distance with transpositions (optimal string alignment), letters
 * compared without case.  A candidate is near when it takes at most one edit for every three
 * letters of the word, and does not change them all: "coninfo" finds conninfo, "x" finds nothing;
 * or when the word begins it, as "pub" does publication.
 */
#include "config/config.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#define MAX_WORD   64 /* longer than any name that is suggested */
#define MIN_PREFIX 3

static int min3(int a, int b, int c)
{
    int least = a < b ? a : b;

    return least < c ? least : c;
}

/* Both words are at most MAX_WORD long.  Three rows of the usual matrix are enough. */
static int edit_distance(const char *a, const char *b)
{
    int rows[3][MAX_WORD + 1] = {{0}};
    int *before = rows[0], *above = rows[1], *row = rows[2];
    int len_a = (int) strlen(a), len_b = (int) strlen(b);

    for (int j = 0; j <= len_b; j++)
        above[j] = j;
    for (int i = 1; i <= len_a; i++) {
        int *spare = before;

        row[0] = i;
        for (int j = 1; j <= len_b; j++) {
            bool same = tolower((unsigned char) a[i - 1]) == tolower((unsigned char) b[j - 1]);

            row[j] = min3(above[j] + 1, row[j - 1] + 1, above[j - 1] + !same);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < row[j])
                row[j] = before[j - 2] + 1;
        }
        before = above;
        above = row;
        row = spare;
    }
    return above[len_b];
}

const char *config_nearest(const char *word, const char *const *candidates, int count)
{
    const char *best = NULL;
    int len = (int) strnlen(word, MAX_WORD + 1), least = (len + 2) / 3 + 1;

    if (len > MAX_WORD)
        return NULL;
    for (int i = 0; i < count; i++) {
        int distance = MAX_WORD;

        if (strlen(candidates[i]) <= MAX_WORD)
            distance = edit_distance(word, candidates[i]);
        if (distance > 1 && len >= MIN_PREFIX &&
            strncasecmp(candidates[i], word, (size_t) len) == 0)
            distance = 1;
        if (distance < least && distance < len) {
            least = distance;
            best = candidates[i];
        }
    }
    return best;
}
