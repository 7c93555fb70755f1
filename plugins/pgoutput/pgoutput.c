/*
 * The decoder of pgoutput, the output plugin that every PostgreSQL server has built in: protocol
 * version 1 in text form, as src/backend/replication/logical/proto.c writes it.
 *
 * A message is a type byte and a fixed sequence of fields; every handler reads its fields through
 * the sticky reader, asks once whether all were there and nothing is left over, and only then
 * believes them.  A message that is refused leaves the decoder as it was.  Every format ends where
 * its own counts say, so no strict prefix of a message is valid.
 *
 * Transactions come in the order of their commits (P27), each behind the end of the one before it:
 * the cursor is such an end, and must not go back.
 *
 * A relation (R) is kept with the bytes that described it: the same bytes again are the same struct
 * relation (the server repeats R after every invalidation, a plain TRUNCATE for one), other bytes
 * make a new one, also where only a type modifier differs, which struct relation does not show but
 * whoever keeps table definitions wants to know of.
 *
 * Deliberately not here: streaming of open transactions, two-phase commit and binary columns (never
 * asked for: P14, P34, P35; refused if they come), the names of types (Y: the catalog has them),
 * replication origins (O: we write nothing to the source, P65), and the flags of TRUNCATE (P62).
 * Values are not checked to be UTF-8: the server converts them to the client encoding, and the
 * mirror refuses what it could not convert (P11).
 */
#include "tailwater/decoder.h"

#include <string.h>

/* 2000-01-01 in microseconds since 1970-01-01: PostgreSQL's epoch. */
#define POSTGRES_EPOCH_US INT64_C(946684800000000)

struct known_relation {
    struct relation relation;
    const unsigned char *description; /* the R message without its type byte */
    size_t description_len;
};

struct decoder {
    struct arena arena; /* holds this struct, the relations and the hash */
    const char *prefix; /* of the messages to pass on, or NULL */

    struct known_relation *
        *slots; /* by relid, open addressing; a power of two, at most half full */
    uint32_t nslots;
    uint32_t nused;
    uint32_t next_id;

    bool in_transaction;
    uint32_t xid;
    lsn_t final_lsn;
    lsn_t end_lsn; /* of the last transaction that ended */
};

/* One message on its way through its handler. */
struct message {
    struct decoder *decoder;
    unsigned char type;
    struct bytes in;
    const unsigned char *start;
    struct arena *scratch;
    struct change change;
    struct error *err;
};

#define refuse(m, ...) (error_set((m)->err, ERROR_PROTOCOL, __VA_ARGS__), refuse_where(m))

/* What every refusal says in front of its reason. */
static bool refuse_where(const struct message *m)
{
    return error_wrap(m->err, "pgoutput message '%c', byte %zu",
                      m->type >= ' ' && m->type < 0x7f ? m->type : '?',
                      (size_t) (m->in.p - m->start));
}

/* All fields were there, and nothing follows them. */
static bool is_whole(struct message *m)
{
    if (m->in.bad)
        return refuse(m, "the message ends in the middle of a field");
    if (bytes_left(&m->in) > 0)
        return refuse(m, "%zu bytes follow the end of the message", bytes_left(&m->in));
    return true;
}

static bool in_transaction(struct message *m)
{
    return m->decoder->in_transaction || refuse(m, "it came outside a transaction");
}

static bool read_time(struct message *m, int64_t *ret_us)
{
    int64_t since_2000 = (int64_t) bytes_u64(&m->in);

    if (__builtin_add_overflow(since_2000, POSTGRES_EPOCH_US, ret_us))
        return refuse(m, "the commit time is out of range");
    return true;
}

/* ---- relations ---- */

static uint32_t slot_of(const struct decoder *decoder, uint32_t relid)
{
    uint32_t hash = relid * UINT32_C(2654435769);

    return (hash ^ hash >> 16) & (decoder->nslots - 1);
}

static struct known_relation *find_relation(const struct decoder *decoder, uint32_t relid)
{
    for (uint32_t i = slot_of(decoder, relid);; i = (i + 1) & (decoder->nslots - 1)) {
        struct known_relation *known = decoder->slots[i];

        if (known == NULL || known->relation.oid == relid)
            return known;
    }
}

static void put_relation(struct decoder *decoder, struct known_relation *known)
{
    uint32_t i = slot_of(decoder, known->relation.oid);

    while (decoder->slots[i] != NULL && decoder->slots[i]->relation.oid != known->relation.oid)
        i = (i + 1) & (decoder->nslots - 1);
    decoder->nused += decoder->slots[i] == NULL;
    decoder->slots[i] = known;
}

static void resize_slots(struct decoder *decoder, uint32_t nslots)
{
    struct known_relation **old = decoder->slots;
    uint32_t nold = decoder->nslots;

    decoder->slots = arena_new(&decoder->arena, struct known_relation *, nslots);
    decoder->nslots = nslots;
    decoder->nused = 0;
    for (uint32_t i = 0; i < nold; i++)
        if (old[i] != NULL)
            put_relation(decoder, old[i]);
}

/* The fields of R; names point into the bytes read, columns are in arena. */
static bool read_relation(struct message *m, struct arena *arena, struct relation *ret_relation)
{
    struct bytes *in = &m->in;
    struct relation relation = {.oid = bytes_u32(in)};
    unsigned char identity;

    relation.schema = bytes_cstring(in);
    relation.name = bytes_cstring(in);
    if (relation.schema[0] == '\0')
        relation.schema = "pg_catalog"; /* sent as "", logicalrep_write_namespace() */
    identity = bytes_u8(in);
    relation.ncolumns = bytes_u16(in);
    /* A column is 10 bytes at least: so the count is believable before memory is asked for. */
    if (in->bad || (size_t) relation.ncolumns > bytes_left(in) / 10)
        return refuse(m, "the message ends in the middle of a field");
    if (identity == '\0' || strchr("dnfi", identity) == NULL)
        return refuse(m, "replica identity %d is not known", identity);
    relation.identity = identity;
    relation.columns = arena_new(arena, struct relation_column, relation.ncolumns);
    for (int i = 0; i < relation.ncolumns; i++) {
        struct relation_column *column = &relation.columns[i];
        unsigned char flags = bytes_u8(in);

        if (flags > 1)
            return refuse(m, "column flags %d are not known", flags);
        column->is_identity = flags == 1;
        column->name = bytes_cstring(in);
        column->type_oid = bytes_u32(in);
        bytes_u32(in); /* the type modifier */
    }
    if (!is_whole(m))
        return false;
    *ret_relation = relation;
    return true;
}

static bool on_relation(struct message *m)
{
    struct decoder *decoder = m->decoder;
    struct bytes description = m->in;
    size_t len = bytes_left(&description);
    struct known_relation *known;
    struct relation relation;

    if (!read_relation(m, m->scratch, &relation))
        return false;
    known = find_relation(decoder, relation.oid);
    if (known != NULL && known->description_len == len &&
        memcmp(known->description, description.p, len) == 0)
        return true;
    /* Read again from a copy that stays. */
    known = arena_zalloc(&decoder->arena, sizeof(*known));
    known->description = arena_memdup(&decoder->arena, description.p, len);
    known->description_len = len;
    m->in = bytes_of(known->description, len);
    m->start = known->description;
    if (!read_relation(m, &decoder->arena, &known->relation))
        return false;
    known->relation.id = decoder->next_id++;
    if (2 * (decoder->nused + 1) > decoder->nslots)
        resize_slots(decoder, 2 * decoder->nslots);
    put_relation(decoder, known);
    return true;
}

static bool on_type(struct message *m)
{
    bytes_u32(&m->in);
    bytes_cstring(&m->in);
    bytes_cstring(&m->in);
    return is_whole(m);
}

/* ---- transactions ---- */

static bool on_begin(struct message *m)
{
    struct decoder *decoder = m->decoder;
    struct change *change = &m->change;

    change->kind = CHANGE_BEGIN;
    change->final_lsn = bytes_u64(&m->in);
    if (!read_time(m, &change->commit_time_us))
        return false;
    change->xid = bytes_u32(&m->in);
    if (!is_whole(m))
        return false;
    if (decoder->in_transaction)
        return refuse(m, "a transaction begins inside another");
    if (change->final_lsn < decoder->end_lsn)
        return refuse(m,
                      "the transaction of " LSN_FORMAT " came behind one that ended at " LSN_FORMAT,
                      LSN_ARGS(change->final_lsn), LSN_ARGS(decoder->end_lsn));
    decoder->in_transaction = true;
    decoder->xid = change->xid;
    decoder->final_lsn = change->final_lsn;
    return true;
}

static bool on_commit(struct message *m)
{
    struct decoder *decoder = m->decoder;
    struct change *change = &m->change;
    unsigned char flags = bytes_u8(&m->in);

    change->kind = CHANGE_COMMIT;
    change->final_lsn = bytes_u64(&m->in);
    change->end_lsn = bytes_u64(&m->in);
    if (!read_time(m, &change->commit_time_us) || !is_whole(m) || !in_transaction(m))
        return false;
    if (flags != 0)
        return refuse(m, "commit flags %d are not known", flags);
    if (change->final_lsn != decoder->final_lsn)
        return refuse(m, "the commit at " LSN_FORMAT " ends a transaction begun for " LSN_FORMAT,
                      LSN_ARGS(change->final_lsn), LSN_ARGS(decoder->final_lsn));
    if (change->end_lsn <= change->final_lsn)
        return refuse(m, "the commit at " LSN_FORMAT " ends at " LSN_FORMAT,
                      LSN_ARGS(change->final_lsn), LSN_ARGS(change->end_lsn));
    change->xid = decoder->xid;
    decoder->in_transaction = false;
    decoder->end_lsn = change->end_lsn;
    return true;
}

static bool on_origin(struct message *m)
{
    bytes_u64(&m->in);
    bytes_cstring(&m->in);
    return is_whole(m) && in_transaction(m);
}

static bool on_message(struct message *m)
{
    unsigned char flags = bytes_u8(&m->in);
    const char *prefix, *content;
    uint32_t len;

    bytes_u64(&m->in); /* its own LSN: never a position (P27) */
    prefix = bytes_cstring(&m->in);
    len = bytes_u32(&m->in);
    content = (const char *) bytes_take(&m->in, len);
    if (!is_whole(m))
        return false;
    if (flags > 1)
        return refuse(m, "message flags %d are not known", flags);
    if (flags == 1 && !in_transaction(m))
        return false;
    /* The server sends the messages of all prefixes. */
    if (m->decoder->prefix == NULL || strcmp(prefix, m->decoder->prefix) != 0)
        return true;
    m->change.kind = CHANGE_MESSAGE;
    m->change.is_transactional = flags == 1;
    m->change.prefix = prefix;
    m->change.content = content;
    m->change.content_len = len;
    return true;
}

/* ---- rows ---- */

static struct relation *read_relid(struct message *m)
{
    uint32_t relid = bytes_u32(&m->in);
    struct known_relation *known = find_relation(m->decoder, relid);

    if (m->in.bad)
        refuse(m, "the message ends in the middle of a field");
    else if (known == NULL)
        refuse(m, "relation %u was never described", relid);
    return m->in.bad || known == NULL ? NULL : &known->relation;
}

/* A tuple in scratch memory, the values in the message; NULL where it was refused. */
static struct value *read_tuple(struct message *m, const struct relation *relation)
{
    struct bytes *in = &m->in;
    int ncolumns = bytes_u16(in);
    struct value *values;

    if (!in->bad && ncolumns != relation->ncolumns) {
        refuse(m, "a row of %d columns for %s.%s, which has %d", ncolumns, relation->schema,
               relation->name, relation->ncolumns);
        return NULL;
    }
    values = arena_alloc(m->scratch, sizeof(*values) * (size_t) relation->ncolumns);
    for (int i = 0; i < ncolumns; i++) {
        struct value *value = &values[i];
        unsigned char kind = bytes_u8(in);

        if (kind == 't') {
            value->kind = VALUE_TEXT;
            value->len = bytes_u32(in);
            value->data = (const char *) bytes_take(in, value->len);
        } else if (kind == 'n') {
            value->kind = VALUE_NULL;
        } else if (kind == 'u') {
            value->kind = VALUE_ABSENT;
        } else if (!in->bad) {
            refuse(m, "column \"%s\" of %s.%s came in form %d, which was not asked for",
                   relation->columns[i].name, relation->schema, relation->name, kind);
            return NULL;
        }
    }
    if (in->bad) {
        refuse(m, "the message ends in the middle of a field");
        return NULL;
    }
    return values;
}

/*
 * An old row.  'O' is all of it (REPLICA IDENTITY FULL, where every column is identity); 'K' is the
 * identity in the shape of a row, where n in the other columns does not mean NULL (P5).
 */
static struct value *read_old(struct message *m, const struct relation *relation)
{
    struct value *old = read_tuple(m, relation);

    for (int i = 0; old != NULL && i < relation->ncolumns; i++)
        if (!relation->columns[i].is_identity)
            old[i].kind = VALUE_ABSENT;
    return old;
}

static bool refuse_part(struct message *m, unsigned char part)
{
    if (m->in.bad)
        return refuse(m, "the message ends in the middle of a field");
    return refuse(m, "a row of kind %d does not belong here", part);
}

/* Where the fields of a row's message begin: its relation, then nothing if that one is ignored. */
static bool begin_row(struct message *m, enum change_kind kind, bool *ret_is_ignored)
{
    struct relation *relation = in_transaction(m) ? read_relid(m) : NULL;

    if (relation == NULL)
        return false;
    *ret_is_ignored = relation->is_ignored;
    if (!relation->is_ignored) {
        m->change.kind = kind;
        m->change.relation = relation;
    }
    return true;
}

static bool on_insert(struct message *m)
{
    bool is_ignored;
    unsigned char part;

    if (!begin_row(m, CHANGE_INSERT, &is_ignored))
        return false;
    if (is_ignored)
        return true;
    part = bytes_u8(&m->in);
    if (part != 'N')
        return refuse_part(m, part);
    m->change.values = read_tuple(m, m->change.relation);
    return m->change.values != NULL && is_whole(m);
}

static bool on_update(struct message *m)
{
    struct change *change = &m->change;
    bool is_ignored;
    unsigned char part;

    if (!begin_row(m, CHANGE_UPDATE, &is_ignored))
        return false;
    if (is_ignored)
        return true;
    part = bytes_u8(&m->in);
    if (part == 'K' || part == 'O') {
        change->old = read_old(m, change->relation);
        if (change->old == NULL)
            return false;
        part = bytes_u8(&m->in);
    }
    if (part != 'N')
        return refuse_part(m, part);
    change->values = read_tuple(m, change->relation);
    if (change->values == NULL || !is_whole(m))
        return false;
    change_normalise(change);
    return true;
}

static bool on_delete(struct message *m)
{
    bool is_ignored;
    unsigned char part;

    if (!begin_row(m, CHANGE_DELETE, &is_ignored))
        return false;
    if (is_ignored)
        return true;
    part = bytes_u8(&m->in);
    if (part != 'K' && part != 'O')
        return refuse_part(m, part);
    m->change.old = read_old(m, m->change.relation);
    return m->change.old != NULL && is_whole(m);
}

static bool on_truncate(struct message *m)
{
    struct change *change = &m->change;
    uint32_t count = bytes_u32(&m->in);
    unsigned char flags = bytes_u8(&m->in);

    if (!in_transaction(m))
        return false;
    if (m->in.bad || count > bytes_left(&m->in) / 4)
        return refuse(m, "the message ends in the middle of a field");
    if (count == 0)
        return refuse(m, "it names no relation");
    if (flags > 3)
        return refuse(m, "truncate flags %d are not known", flags);
    change->relations = arena_new(m->scratch, struct relation *, count);
    for (uint32_t i = 0; i < count; i++) {
        struct relation *relation = read_relid(m);

        if (relation == NULL)
            return false;
        if (!relation->is_ignored)
            change->relations[change->nrelations++] = relation;
    }
    if (change->nrelations > 0)
        change->kind = CHANGE_TRUNCATE;
    return is_whole(m);
}

static bool (*const handlers[256])(struct message *) = {
    ['B'] = on_begin,    ['C'] = on_commit,  ['O'] = on_origin, ['R'] = on_relation,
    ['Y'] = on_type,     ['I'] = on_insert,  ['U'] = on_update, ['D'] = on_delete,
    ['T'] = on_truncate, ['M'] = on_message,
};

static bool pgoutput_decode(struct decoder *decoder, struct bytes in, struct arena *scratch,
                            struct change *ret_change, struct error *err)
{
    struct message m = {.decoder = decoder,
                        .in = in,
                        .start = in.p,
                        .scratch = scratch,
                        .change = {.kind = CHANGE_NONE},
                        .err = err};

    m.type = bytes_u8(&m.in);
    if (m.in.bad)
        return error_set(err, ERROR_PROTOCOL, "pgoutput sent an empty message");
    if (handlers[m.type] == NULL)
        return refuse(&m, "messages of type %d were not asked for", m.type);
    if (!handlers[m.type](&m))
        return false;
    *ret_change = m.change;
    return true;
}

/* ---- the ends ---- */

static const char *quoted_identifier(struct arena *arena, const char *name)
{
    char *text = arena_alloc(arena, 2 * strlen(name) + 3), *p = text;

    *p++ = '"';
    for (; *name != '\0'; name++) {
        if (*name == '"')
            *p++ = '"';
        *p++ = *name;
    }
    *p++ = '"';
    *p = '\0';
    return text;
}

static int pgoutput_options(const struct decoder_config *config, struct arena *arena,
                            struct decoder_option *ret_options)
{
    int n = 0;

    ret_options[n++] = (struct decoder_option){"proto_version", "1"};
    ret_options[n++] = (struct decoder_option){"publication_names",
                                               quoted_identifier(arena, config->publication)};
    if (config->prefix != NULL)
        ret_options[n++] = (struct decoder_option){"messages", "true"};
    return n;
}

static struct decoder *pgoutput_create(const struct decoder_config *config)
{
    struct arena arena = {0};
    struct decoder *decoder = arena_zalloc(&arena, sizeof(*decoder));

    decoder->prefix = config->prefix;
    decoder->arena = arena;
    resize_slots(decoder, 64);
    return decoder;
}

static void pgoutput_destroy(struct decoder *decoder)
{
    struct arena arena;

    if (decoder == NULL)
        return;
    arena = decoder->arena; /* the decoder lies in it */
    arena_release(&arena);
}

const struct decoder_ops decoder_pgoutput = {
    .plugin = "pgoutput",
    .options = pgoutput_options,
    .create = pgoutput_create,
    .destroy = pgoutput_destroy,
    .decode = pgoutput_decode,
};
