#include "json.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 16, MAX_EXPONENT = 300, MAX_DIGITS = 18 };

struct reader {
    const char *text;
    size_t length, at;
    unsigned depth;
    char *error;
    size_t error_size;
};

static struct json *value(struct reader *in);

__attribute__((format(printf, 2, 3))) static void *refuse(struct reader *in, const char *format, ...)
{
    unsigned line = 1;
    for (size_t i = 0; i < in->at && i < in->length; i++)
        line += in->text[i] == '\n';
    int used = snprintf(in->error, in->error_size, "line %u: ", line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(in->error + used, in->error_size - (size_t)used, format, arguments);
    va_end(arguments);
    return NULL;
}

/* The next byte, -1 at the end. */
static int peek(const struct reader *in)
{
    return in->at < in->length ? (unsigned char)in->text[in->at] : -1;
}

static bool take(struct reader *in, char wanted)
{
    if (peek(in) != (unsigned char)wanted)
        return false;
    in->at++;
    return true;
}

static bool take_word(struct reader *in, const char *word)
{
    size_t size = strlen(word);
    if (in->length - in->at < size || memcmp(in->text + in->at, word, size) != 0)
        return false;
    in->at += size;
    return true;
}

static void skip_blanks(struct reader *in)
{
    while (in->at < in->length && strchr(" \t\r\n", in->text[in->at]) && in->text[in->at])
        in->at++;
}

static bool digit(const struct reader *in)
{
    return peek(in) >= '0' && peek(in) <= '9';
}

static struct json *new_value(struct reader *in, enum json_kind kind)
{
    struct json *made = calloc(1, sizeof *made);
    if (!made)
        return refuse(in, "out of memory");
    made->kind = kind;
    return made;
}

static int hex_digits(struct reader *in)
{
    int code = 0;
    for (int i = 0; i < 4; i++) {
        int c = peek(in);
        const char *digits = "0123456789abcdef";
        const char *found = c > 0 ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
        if (!found)
            return -1;
        code = code * 16 + (int)(found - digits);
        in->at++;
    }
    return code;
}

static size_t put_utf8(char *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    for (size_t i = more; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)((more == 1 ? 0xc0 : more == 2 ? 0xe0 : 0xf0) | code);
    return more + 1;
}

/* What stands behind a backslash; the number of bytes written (4 at most), 0 when it is refused. */
static size_t escape(struct reader *in, char *out)
{
    const char *plain = "\"\\/bfnrt", *meant = "\"\\/\b\f\n\r\t";
    int c = peek(in);
    const char *found = c > 0 ? strchr(plain, c) : NULL;
    if (found) {
        in->at++;
        *out = meant[found - plain];
        return 1;
    }
    if (!take(in, 'u'))
        return 0;
    int code = hex_digits(in);
    if (code >= 0xd800 && code < 0xdc00) { /* the first half of a pair */
        int low = take_word(in, "\\u") ? hex_digits(in) : -1;
        if (low < 0xdc00 || low > 0xdfff)
            return 0;
        return put_utf8(out, 0x10000 + (((uint32_t)code & 0x3ff) << 10) + ((uint32_t)low & 0x3ff));
    }
    if (code <= 0 || (code >= 0xdc00 && code < 0xe000)) /* a zero would end a C string */
        return 0;
    return put_utf8(out, (uint32_t)code);
}

/* The bytes of one character that is no ASCII, 0 when they are not UTF-8. */
static size_t utf8_size(const struct reader *in, int first)
{
    size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || in->length - in->at < size)
        return 0;
    uint32_t code = (uint32_t)first & (0x7fU >> size);
    for (size_t i = 1; i < size; i++) {
        unsigned char more = (unsigned char)in->text[in->at + i];
        if ((more & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (more & 0x3f);
    }
    bool fits = code >= (size == 2 ? 0x80U : size == 3 ? 0x800U : 0x10000U) && code <= 0x10ffff;
    return fits && (code < 0xd800 || code > 0xdfff) ? size : 0;
}

static char *string(struct reader *in)
{
    size_t start = ++in->at, used = 0;
    char *out = malloc(in->length - start + 1); /* an escape never is shorter than what it means */
    if (!out)
        return refuse(in, "out of memory");
    while (!take(in, '"')) {
        int c = peek(in);
        size_t added = 1;
        if (c < 0x20) { /* the end of the text too */
            free(out);
            return refuse(in, c < 0 ? "a string has no end" : "a string has a control character");
        }
        if (c >= 0x80) {
            added = utf8_size(in, c);
            memcpy(out + used, in->text + in->at, added);
            in->at += added;
        } else {
            in->at++;
            out[used] = (char)c;
            if (c == '\\')
                added = escape(in, out + used);
        }
        if (!added) {
            free(out);
            return refuse(in, "a string has %s",
                          c == '\\' ? "an unknown escape" : "a byte that is no UTF-8");
        }
        used += added;
    }
    out[used] = '\0';
    return out;
}

static double scaled(double number, long exponent)
{
    for (; exponent > 0; exponent--)
        number *= 10;
    for (; exponent < 0; exponent++)
        number /= 10;
    return number;
}

/* By hand, since strtod() reads what the host program's locale says. */
static struct json *number(struct reader *in)
{
    long long digits = 0;
    long exponent = 0, given = 0;
    unsigned count = 0;
    bool whole = true, minus = take(in, '-');
    if (!digit(in) || (peek(in) == '0' && in->at + 1 < in->length && in->text[in->at + 1] >= '0' &&
                       in->text[in->at + 1] <= '9'))
        return refuse(in, "not a number");
    for (; digit(in); count++)
        digits = count < MAX_DIGITS ? digits * 10 + (in->text[in->at++] - '0') : (in->at++, digits);
    if (take(in, '.')) {
        whole = false;
        if (!digit(in))
            return refuse(in, "no digit behind a decimal point");
        for (; digit(in); in->at++) {
            if (count++ < MAX_DIGITS) {
                digits = digits * 10 + (in->text[in->at] - '0');
                exponent--;
            }
        }
    }
    if (take(in, 'e') || take(in, 'E')) {
        whole = false;
        bool down = take(in, '-');
        if (!down)
            take(in, '+');
        if (!digit(in))
            return refuse(in, "no digit in an exponent");
        for (; digit(in); in->at++)
            given = given < MAX_EXPONENT ? given * 10 + (in->text[in->at] - '0') : given;
        exponent += down ? -given : given;
    }
    if (count > MAX_DIGITS && whole)
        return refuse(in, "a number with more than %d digits", MAX_DIGITS);
    if (given > MAX_EXPONENT)
        return refuse(in, "an exponent beyond %d", MAX_EXPONENT);
    struct json *made = new_value(in, JSON_NUMBER);
    if (made) {
        made->whole = whole;
        made->integer = minus ? -digits : digits;
        made->number = scaled((double)made->integer, exponent);
    }
    return made;
}

/* One item of an array or object, appended at `end`; false when it is refused. */
static bool item(struct reader *in, struct json *parent, struct json **end)
{
    char *key = NULL;
    skip_blanks(in);
    if (parent->kind == JSON_OBJECT) {
        if (peek(in) != '"')
            return refuse(in, "a key is missing") != NULL;
        if (!(key = string(in)))
            return false;
        bool twice = json_member(parent, key) != NULL;
        skip_blanks(in);
        if (twice || !take(in, ':')) {
            refuse(in, twice ? "the key \"%s\" stands there twice" : "no colon behind the key \"%s\"",
                   key);
            free(key);
            return false;
        }
    }
    *end = value(in);
    if (!*end) {
        free(key);
        return false;
    }
    (*end)->key = key;
    return true;
}

static struct json *collection(struct reader *in, enum json_kind kind, char closing)
{
    in->at++;
    if (in->depth == MAX_DEPTH)
        return refuse(in, "nested more than %d deep", MAX_DEPTH);
    struct json *made = new_value(in, kind);
    if (!made)
        return NULL;
    in->depth++;
    struct json **end = &made->first;
    skip_blanks(in);
    while (!take(in, closing)) {
        if (end != &made->first && !take(in, ',')) {
            refuse(in, "a comma or '%c' is missing", closing);
            json_free(made);
            return NULL;
        }
        if (!item(in, made, end)) {
            json_free(made);
            return NULL;
        }
        end = &(*end)->next;
        skip_blanks(in);
    }
    in->depth--;
    return made;
}

static struct json *value(struct reader *in)
{
    skip_blanks(in);
    struct json *made;
    switch (peek(in)) {
    case '{':
        return collection(in, JSON_OBJECT, '}');
    case '[':
        return collection(in, JSON_ARRAY, ']');
    case '"':
        if ((made = new_value(in, JSON_STRING)) && !(made->text = string(in))) {
            free(made);
            return NULL;
        }
        return made;
    case 't':
    case 'f':
        if (!(made = new_value(in, JSON_BOOL)))
            return NULL;
        made->truth = peek(in) == 't';
        if (take_word(in, made->truth ? "true" : "false"))
            return made;
        free(made);
        return refuse(in, "an unknown word");
    case 'n':
        return take_word(in, "null") ? new_value(in, JSON_NULL) : refuse(in, "an unknown word");
    default:
        return peek(in) < 0 ? refuse(in, "the text ends too early") : number(in);
    }
}

struct json *json_read(const char *text, size_t length, char *error, size_t error_size)
{
    struct reader in = {.text = text, .length = length, .error = error, .error_size = error_size};
    struct json *read = value(&in);
    if (!read)
        return NULL;
    skip_blanks(&in);
    if (in.at < length) {
        json_free(read);
        return refuse(&in, "more text behind the end");
    }
    return read;
}

void json_free(struct json *value)
{
    while (value) {
        struct json *next = value->next;
        json_free(value->first);
        free(value->key);
        free(value->text);
        free(value);
        value = next;
    }
}

const struct json *json_member(const struct json *object, const char *key)
{
    const struct json *found = object->first;
    while (found && strcmp(found->key, key) != 0)
        found = found->next;
    return found;
}
