/* SHA-256 comes from libcrypto, which libpq brings along; the source computes the same with
 * sha256(convert_to(…, 'UTF8')). */
#include "batch/mask.h"

#include <openssl/evp.h>
#include <stdio.h>

static void hash_value(struct value *value, struct arena *arena)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    char *text;

    if (EVP_Digest(value->data, value->len, digest, &len, EVP_sha256(), NULL) != 1 || len != 32) {
        value->kind = VALUE_NULL; /* rather nothing than the clear text */
        return;
    }
    text = arena_alloc(arena, 65);
    for (unsigned i = 0; i < len; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    value->data = text;
    value->len = 64;
}

void mask_value(enum column_mask mask, struct value *value, struct arena *arena)
{
    if (value->kind != VALUE_TEXT)
        return;
    switch (mask) {
    case MASK_NONE:
        return;
    case MASK_NULL:
        value->kind = VALUE_NULL;
        return;
    case MASK_HASH:
        hash_value(value, arena);
        return;
    }
}
