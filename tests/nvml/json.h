/* A strict reader of JSON (RFC 8259): the whole text is one value, or it is refused with a reason.
 *
 * Why not a library: the result runs in Debian 12 and 13 guests in which nothing but the C library is
 * sure to be there, and what such libraries let pass (text behind the value, the same key twice) is
 * just what a test's typing error looks like. */
#ifndef SIMULATED_JSON_H
#define SIMULATED_JSON_H

#include <stdbool.h>
#include <stddef.h>

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
    enum json_kind kind;
    char *key;           /* of a member of an object, else NULL */
    char *text;          /* JSON_STRING */
    bool truth;          /* JSON_BOOL */
    bool whole;          /* JSON_NUMBER: has neither fraction nor exponent; then `integer` is exact */
    long long integer;   /* JSON_NUMBER */
    double number;       /* JSON_NUMBER */
    struct json *first;  /* JSON_ARRAY, JSON_OBJECT: its items, chained by `next` */
    struct json *next;
};

/* Reads `length` bytes of UTF-8. NULL with a sentence in `error` when they are not JSON. */
struct json *json_read(const char *text, size_t length, char *error, size_t error_size);
void json_free(struct json *value);

/* The member of an object, NULL when it has none of that name. */
const struct json *json_member(const struct json *object, const char *key);

#endif
