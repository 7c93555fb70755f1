/* The migrations of the control schema, embedded at build by migrations/embed.py, in order of their
 * version: 1, 2, 3… */
#ifndef TAILWATER_MIGRATIONS_H
#define TAILWATER_MIGRATIONS_H

struct migration {
    int version;
    const char *name; /* "control" of 0001_control.sql */
    const char *hash; /* SHA-256 of the file, in hexadecimal */
    const char *sql;
};

extern const struct migration migrations[];
extern const int migrations_count;

#endif
