/* Changes of the configuration's file: what stands around the list of tables stays as it is. */
#include "config/edit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define HEAD                                                                                       \
    "source: {conninfo: host=s} # the shop\n"                                                      \
    "mirror: {conninfo: host=m}\n"
#define TAIL "\n# below\npurge: {after: 7d}\n"

struct change {
    const char *before;
    char what; /* + or - */
    const char *schema, *name;
    const char *after; /* NULL: refused, and the file stays as it was */
};

static const struct change changes[] = {
    {HEAD "tables: [public.a]\n" TAIL, '+', "public", "b",
     HEAD "tables: [public.a, public.b]\n" TAIL},
    {HEAD "tables: [ public.a, {name: public.c, exclude: [x, \"]\"]} ] # all\n" TAIL, '+', "public",
     "b", HEAD "tables: [ public.a, {name: public.c, exclude: [x, \"]\"]}, public.b] # all\n" TAIL},
    {HEAD "tables: [\n  public.a, # one\n  public.c\n]\n", '+', "public", "b",
     HEAD "tables: [\n  public.a, # one\n  public.c, public.b]\n"},
    {HEAD "tables:\n  - public.a # one\n" TAIL, '+', "public", "b",
     HEAD "tables:\n  - public.a # one\n  - public.b\n" TAIL},
    {HEAD "tables:\n- public.a\n- name: public.c\n  exclude: [x]\n\n  # more of it\n  deletes: "
          "ignore\n" TAIL,
     '+', "public", "b",
     HEAD "tables:\n- public.a\n- name: public.c\n  exclude: [x]\n\n  # more of it\n  deletes: "
          "ignore\n- public.b\n" TAIL},
    {HEAD "tables:\n  - public.a", '+', "public", "b",
     HEAD "tables:\n  - public.a\n  - public.b\n"},
    {HEAD "tables: [public.*, '!public.b']\n", '+', "public", "b",
     HEAD "tables: [public.*, public.b]\n"},
    {HEAD "tables:\n  - '!public.b'\n  - public.*\n", '+', "public", "b",
     HEAD "tables:\n  - public.*\n  - public.b\n"},
    {HEAD "tables: [public.a]\n", '+', "odd schema", "O'\"${x}.*",
     HEAD "tables: [public.a, '\"odd schema\".\"O''\"\"$${x}.*\"']\n"},
    {HEAD "tables: [public.a]\n", '+', "public", "Größe",
     HEAD "tables: [public.a, 'public.Größe']\n"},
    {HEAD "tables: [é.a, public.c]\n", '+', "public", "b",
     HEAD "tables: [é.a, public.c, public.b]\n"},

    {HEAD "tables: [public.a, public.b, public.c]\n", '-', "public", "b",
     HEAD "tables: [public.a, public.c]\n"},
    {HEAD "tables: [public.b, public.c]\n", '-', "public", "b", HEAD "tables: [public.c]\n"},
    {HEAD "tables: [public.a, {name: public.b, deletes: ignore}]\n", '-', "public", "b",
     HEAD "tables: [public.a]\n"},
    {HEAD "tables: [public.*]\n" TAIL, '-', "public", "b",
     HEAD "tables: [public.*, '!public.b']\n" TAIL},
    {HEAD
     "tables:\n  - public.a\n  - name: public.b\n    deletes: ignore\n  # and\n  - public.c\n" TAIL,
     '-', "public", "b", HEAD "tables:\n  - public.a\n  # and\n  - public.c\n" TAIL},
    {HEAD "tables:\n  - public.*\n  - name: public.b\n    deletes: ignore\n" TAIL, '-', "public",
     "b", HEAD "tables:\n  - public.*\n  - '!public.b'\n" TAIL},
    {HEAD "tables: [public.b]\n", '-', "public", "b", NULL}, /* none is left */
    {HEAD "\"tables\": ? [public.a]\n", '+', "public", "b", NULL},
    {HEAD "tables: [public.a, # ]\n public.c]\n", '+', "public", "b",
     HEAD "tables: [public.a, # ]\n public.c, public.b]\n"},
};

static void write_file(const char *file, const char *text)
{
    FILE *stream = fopen(file, "w");

    assert_non_null(stream);
    fputs(text, stream);
    fclose(stream);
}

static void assert_text(const char *file, const char *wanted)
{
    char text[4096];
    FILE *stream = fopen(file, "r");
    const size_t len = fread(text, 1, sizeof(text) - 1, stream);

    fclose(stream);
    text[len] = '\0';
    assert_string_equal(text, wanted);
}

static void try_change(const char *file, const struct change *change)
{
    struct arena arena = {0};
    struct config config;
    struct edit edit = {0};
    struct error err;
    bool is_ok;

    write_file(file, change->before);
    if (!config_load(file, &arena, &config, &err))
        is_ok = false;
    else
        is_ok = (change->what == '+' ? edit_add_table : edit_remove_table)(
            &config, change->schema, change->name, &arena, &edit, &err);
    if (is_ok) {
        assert_text(file, change->before); /* not before it is committed */
        assert_true(edit_commit(&edit, &err));
    } else if (change->after != NULL) {
        fail_msg("%s%s", err.message, err.hint);
    }
    assert_true(is_ok == (change->after != NULL));
    assert_text(file, change->after != NULL ? change->after : change->before);
    edit_release(&edit);
    arena_release(&arena);
}

static void test_changes(void **state)
{
    char folder[] = "/tmp/tailwater-edit-XXXXXX", file[64];

    (void) state;
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof(file), "%s/t.yaml", folder);
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++)
        try_change(file, &changes[i]);
    unlink(file);
    assert_int_equal(rmdir(folder), 0); /* nothing else is left there */
}

/* A link stays one, and the file keeps its mode. */
static void test_place(void **state)
{
    char folder[] = "/tmp/tailwater-edit-XXXXXX", file[64], link[64];
    struct arena arena = {0};
    struct config config;
    struct edit edit = {0};
    struct error err;
    struct stat found;

    (void) state;
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof(file), "%s/t.yaml", folder);
    snprintf(link, sizeof(link), "%s/l.yaml", folder);
    write_file(file, HEAD "tables: [public.a]\n");
    assert_int_equal(chmod(file, 0640), 0);
    assert_int_equal(symlink("t.yaml", link), 0);
    assert_true(config_load(link, &arena, &config, &err));
    assert_true(edit_add_table(&config, "public", "b", &arena, &edit, &err));
    assert_true(edit_commit(&edit, &err));
    assert_text(file, HEAD "tables: [public.a, public.b]\n");
    assert_int_equal(lstat(link, &found), 0);
    assert_true(S_ISLNK(found.st_mode));
    assert_int_equal(stat(file, &found), 0);
    assert_int_equal(found.st_mode & 0777, 0640);
    edit_release(&edit);
    unlink(link);
    unlink(file);
    rmdir(folder);
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_place),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
