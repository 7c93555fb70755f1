/* Documents as lines on standard output.  Who reads them has accepted them once they are written;
 * nobody knows what becomes of them in a pipe. */
#include "feed/destination.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool open_stdout(const struct destination_options *options, void **ret_self,
                        struct error *err)
{
    (void) options;
    (void) err;
    *ret_self = stdout;
    return true;
}

static void close_stdout(void *self)
{
    (void) self; /* the process's */
}

static bool send_lines(void *self, const struct destination_parcel *parcel,
                       struct destination_answer *ret_answer, struct error *err)
{
    FILE *out = self;

    for (int i = 0; i < parcel->count; i++) {
        fwrite(parcel->documents[i]->json, 1, parcel->documents[i]->len, out);
        fputc('\n', out);
    }
    if (fflush(out) != 0 || ferror(out))
        return error_set(err, ERROR_FAILED, "writing to standard output: %s", strerror(errno));
    destination_answer_set(ret_answer, DESTINATION_ACCEPTED, NULL, 0, "written");
    return true;
}

const struct destination_ops destination_stdout = {
    .kind = "stdout",
    .open = open_stdout,
    .close = close_stdout,
    .send = send_lines,
};
