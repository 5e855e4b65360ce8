#include "state.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "json.h"

#define DEFAULT_STATE "/etc/simulated-gpus.json"
/* On a rig programs must reach the driver's device, or the real library finds no driver: a sandbox
 * that hides it (PrivateDevices=yes) shall fail here too. The simulated one is a plain file. */
#define DEVICE "/dev/nvidiactl"
/* Settings pass through the device, so they may be made wherever that is reached; and a reboot undoes
 * them, as a real card forgets its own. */
#define DEFAULT_SETTINGS "/dev/simulated-gpus.settings"

enum { MAX_FILE = 1 << 20, MAX_KNOWN = 256, MESSAGE_SIZE = 512, PATH_SIZE = 4096 };

enum type { WHOLE, WATTS, TEXT, TRUTH, PROCESSES, EVENTS, FAULT_ONLY, CARDS };

struct field {
    const char *name;
    enum type type;
    bool required;
};

static const struct field SYSTEM_FIELDS[] = {
    {"driver_version", TEXT, true}, {"nvml_version", TEXT, true}, {"cuda_version", WHOLE, true},
    {"init", FAULT_ONLY, false},    {"cards", CARDS, true},       {NULL, TEXT, false},
};

static const struct field CARD_FIELDS[] = {
    {"name", TEXT, true},
    {"uuid", TEXT, true},
    {"pci_bus_id", TEXT, true},
    {"pci_device_id", TEXT, false}, /* hexadecimal, as are those below */
    {"pci_subsystem_id", TEXT, false},
    {"card", FAULT_ONLY, false}, /* stands for every question to this card */
    {"serial", TEXT, false},
    {"vbios_version", TEXT, false},
    {"compute_capability", TEXT, false},
    {"memory_total_mib", WHOLE, false},
    {"memory_reserved_mib", WHOLE, false},
    {"memory_used_mib", WHOLE, false},
    {"bar1_total_mib", WHOLE, false},
    {"bar1_used_mib", WHOLE, false},
    {"temperature", WHOLE, false},
    {"temperature_shutdown", WHOLE, false},
    {"temperature_slowdown", WHOLE, false},
    {"temperature_max", WHOLE, false},
    {"power_draw_w", WATTS, false},
    {"power_limit_w", WATTS, false},
    {"power_limit_default_w", WATTS, false},
    {"power_limit_min_w", WATTS, false},
    {"power_limit_max_w", WATTS, false},
    {"utilization_gpu", WHOLE, false},
    {"utilization_memory", WHOLE, false},
    {"utilization_encoder", WHOLE, false},
    {"utilization_decoder", WHOLE, false},
    {"fan_speed", WHOLE, false},
    {"clock_graphics_mhz", WHOLE, false},
    {"clock_sm_mhz", WHOLE, false},
    {"clock_memory_mhz", WHOLE, false},
    {"clock_video_mhz", WHOLE, false},
    {"clock_graphics_max_mhz", WHOLE, false},
    {"clock_sm_max_mhz", WHOLE, false},
    {"clock_memory_max_mhz", WHOLE, false},
    {"clock_video_max_mhz", WHOLE, false},
    {"clock_event_reasons", WHOLE, false}, /* NVML's bits */
    {"performance_state", WHOLE, false},
    {"pcie_generation", WHOLE, false},
    {"pcie_generation_max", WHOLE, false},
    {"pcie_width", WHOLE, false},
    {"pcie_width_max", WHOLE, false},
    {"pcie_replays", WHOLE, false},
    {"pcie_tx_kib_s", WHOLE, false},
    {"pcie_rx_kib_s", WHOLE, false},
    {"persistence_mode", TRUTH, false},
    {"compute_mode", WHOLE, false},
    {"display_active", TRUTH, false},
    {"display_mode", TRUTH, false},
    {"processes", PROCESSES, false},
    {"events", EVENTS, false},
    {NULL, TEXT, false},
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct json *state;        /* NULL: the file is not what it must be */
static char *state_text;          /* what `state` or the complaint about it was made of */
static nvmlReturn_t state_status; /* of reading the file */
static struct nvmlDevice_st known[MAX_KNOWN];
static unsigned known_count;

/* --- Time --------------------------------------------------------------------------------------- */

long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

void sleep_ms(long long milliseconds)
{
    struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

/* --- What the file may say ---------------------------------------------------------------------- */

static const char *state_path(void)
{
    const char *given = getenv("SIMULATED_GPUS");
    return given && *given ? given : DEFAULT_STATE;
}

static bool on_a_rig(void)
{
    return strcmp(state_path(), DEFAULT_STATE) == 0;
}

static void complain(const char *path, const char *what)
{
    fprintf(stderr, "simulated NVML: %s: %s\n", path, what);
}

static const struct field *field_named(const struct field *fields, const char *name)
{
    while (fields->name && strcmp(fields->name, name) != 0)
        fields++;
    return fields->name ? fields : NULL;
}

static bool is_whole(const struct json *value, long long least)
{
    return value && value->kind == JSON_NUMBER && value->whole && value->integer >= least;
}

static bool list_fits(const struct json *list, const char *first, const char *second, const char *text)
{
    if (list->kind != JSON_ARRAY)
        return false;
    for (const struct json *item = list->first; item; item = item->next) {
        if (item->kind != JSON_OBJECT || !is_whole(json_member(item, first), 1) ||
            !is_whole(json_member(item, second), 0))
            return false;
        const struct json *words = text ? json_member(item, text) : NULL;
        if (words && words->kind != JSON_STRING)
            return false;
        for (const struct json *part = item->first; part; part = part->next)
            if (strcmp(part->key, first) && strcmp(part->key, second) && part != words)
                return false;
    }
    return true;
}

static bool value_fits(enum type type, const struct json *value)
{
    switch (type) {
    case WHOLE:
        return is_whole(value, 0);
    case WATTS:
        return value->kind == JSON_NUMBER && value->number >= 0 && value->number <= 1000000;
    case TEXT:
        return value->kind == JSON_STRING && *value->text && strlen(value->text) < UUID_SIZE;
    case TRUTH:
        return value->kind == JSON_BOOL;
    case PROCESSES:
        return list_fits(value, "pid", "memory_mib", "name");
    case EVENTS:
        return list_fits(value, "id", "xid", NULL);
    case CARDS:
        return value->kind == JSON_ARRAY;
    case FAULT_ONLY:
        break;
    }
    return false;
}

/* {"error": N}, {"hang": true}, {"hang_s": S, "error": N} or {"hang_s": S, "value": ...}; what hangs
 * for a while as a whole (`card`, `init`) needs neither: then it answers as usual. */
static bool fault_fits(enum type type, const struct json *fault)
{
    const struct json *error = json_member(fault, "error"), *hang = json_member(fault, "hang");
    const struct json *hang_s = json_member(fault, "hang_s"), *late = json_member(fault, "value");
    int known_parts = !!error + !!hang + !!hang_s + !!late, parts = 0;
    for (const struct json *part = fault->first; part; part = part->next)
        parts++;
    if (!parts || parts != known_parts || (error && !is_whole(error, 1)) ||
        (hang && (hang->kind != JSON_BOOL || !hang->truth || parts > 1)) ||
        (hang_s && (hang_s->kind != JSON_NUMBER || hang_s->number < 0 || hang_s->number > 86400)))
        return false;
    if (late)
        return hang_s && !error && value_fits(type, late);
    return error || hang || type == FAULT_ONLY;
}

__attribute__((format(printf, 2, 3))) static bool wrong(char *message, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, MESSAGE_SIZE, format, arguments);
    va_end(arguments);
    return false;
}

static bool object_fits(const struct field *fields, const struct json *object, const char *what,
                        char *message)
{
    if (object->kind != JSON_OBJECT)
        return wrong(message, "%s is not an object", what);
    for (const struct json *value = object->first; value; value = value->next) {
        const struct field *field = field_named(fields, value->key);
        if (!field)
            return wrong(message, "%s has a field \"%.60s\" that is not simulated", what, value->key);
        bool fault = value->kind == JSON_OBJECT;
        if (fault ? field->required || !fault_fits(field->type, value)
                  : !value_fits(field->type, value))
            return wrong(message, "%s: \"%s\" is not what it may be", what, value->key);
    }
    for (const struct field *field = fields; field->name; field++)
        if (field->required && !json_member(object, field->name))
            return wrong(message, "%s has no \"%s\"", what, field->name);
    return true;
}

static bool state_fits(const struct json *root, char *message)
{
    if (!object_fits(SYSTEM_FIELDS, root, "the state", message))
        return false;
    const struct json *cards = json_member(root, "cards");
    unsigned count = 0;
    for (const struct json *card = cards->first; card; card = card->next, count++) {
        char what[32];
        snprintf(what, sizeof what, "card %u", count);
        if (count == MAX_CARDS)
            return wrong(message, "more than %d cards", MAX_CARDS);
        if (!object_fits(CARD_FIELDS, card, what, message))
            return false;
        for (const struct json *other = cards->first; other != card; other = other->next) {
            const char *both[] = {"uuid", "pci_bus_id"};
            for (unsigned i = 0; i < 2; i++)
                if (!strcmp(json_member(card, both[i])->text, json_member(other, both[i])->text))
                    return wrong(message, "%s has the %s of another card", what, both[i]);
        }
    }
    return true;
}

/* --- Reading it --------------------------------------------------------------------------------- */

/* The whole file as a string; NULL with errno when it cannot be read. */
static char *read_file(int descriptor, size_t *length)
{
    char *text = malloc(MAX_FILE + 1);
    ssize_t got = 0;
    *length = 0;
    while (text && *length < MAX_FILE &&
           (got = read(descriptor, text + *length, MAX_FILE - *length)) > 0)
        *length += (size_t)got;
    if (!text || got < 0) {
        free(text);
        return NULL;
    }
    text[*length] = '\0';
    return text;
}

static void forget(void)
{
    json_free(state);
    free(state_text);
    state = NULL;
    state_text = NULL;
}

static nvmlReturn_t understand(char *text, size_t length)
{
    char message[MESSAGE_SIZE];
    forget();
    state_text = text;
    state = json_read(text, length, message, sizeof message);
    if (state && !state_fits(state, message)) {
        json_free(state);
        state = NULL;
    }
    if (!state)
        complain(state_path(), message);
    return state ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}

/* Brings `state` up to date; the caller holds the lock. Says what is wrong once, not at every call. */
static nvmlReturn_t refresh(void)
{
    int descriptor = open(state_path(), O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    char *text = descriptor < 0 ? NULL : read_file(descriptor, &length);
    int error = errno;
    if (descriptor >= 0)
        close(descriptor);
    if (!text) {
        nvmlReturn_t status = error == ENOENT ? NVML_ERROR_DRIVER_NOT_LOADED : NVML_ERROR_UNKNOWN;
        if (state_text || state_status != status)
            complain(state_path(), strerror(error));
        forget();
        return state_status = status;
    }
    if (state_text && strlen(state_text) == length && !memcmp(state_text, text, length)) {
        free(text);
        return state_status;
    }
    return state_status = understand(text, length);
}

/* --- Asking ------------------------------------------------------------------------------------- */

struct question {
    nvmlDevice_t card; /* NULL: the system */
    const char *field; /* NULL: nothing beyond whether the card answers */
    long long began_ms;
    bool hangs; /* out: ask again later */
};

static const struct json *find_card(nvmlDevice_t device)
{
    const struct json *card = json_member(state, "cards")->first;
    while (card && strcmp(json_member(card, "uuid")->text, device->uuid) != 0)
        card = card->next;
    return card;
}

/* What a fault makes of a question; `*value` becomes what is answered when it ends well. */
static nvmlReturn_t suffer(struct question *question, const struct json **value)
{
    const struct json *fault = *value, *hang_s = json_member(fault, "hang_s");
    const struct json *error = json_member(fault, "error");
    if (json_member(fault, "hang") ||
        (hang_s && (double)(now_ms() - question->began_ms) <= hang_s->number * 1000)) {
        question->hangs = true;
        return NVML_SUCCESS;
    }
    *value = json_member(fault, "value");
    return error ? (nvmlReturn_t)error->integer : NVML_SUCCESS;
}

/* The answer's value, valid while the lock is held; NULL together with NVML_SUCCESS while it hangs, or
 * when there was no field to ask for. */
static nvmlReturn_t find(struct question *question, const struct json **value)
{
    *value = NULL;
    question->hangs = false;
    nvmlReturn_t status = refresh();
    if (status != NVML_SUCCESS)
        return status;
    const struct json *of = state, *whole = json_member(state, "init");
    if (question->card) {
        if (!(of = find_card(question->card)))
            return NVML_ERROR_GPU_IS_LOST; /* it is gone from the list, as after a reboot */
        whole = json_member(of, "card");
    }
    if (whole && (question->card || !question->field)) {
        status = suffer(question, &whole);
        if (status != NVML_SUCCESS || question->hangs)
            return status;
    }
    if (!question->field)
        return NVML_SUCCESS;
    assert(field_named(question->card ? CARD_FIELDS : SYSTEM_FIELDS, question->field));
    *value = json_member(of, question->field);
    if (!*value)
        return NVML_ERROR_NOT_SUPPORTED;
    return (*value)->kind == JSON_OBJECT ? suffer(question, value) : NVML_SUCCESS;
}

/* Takes the lock and leaves with it, unless the answer is an error. Here calls hang. */
static nvmlReturn_t ask(nvmlDevice_t card, const char *field, const struct json **value)
{
    struct question question = {.card = card, .field = field, .began_ms = now_ms()};
    for (;;) {
        pthread_mutex_lock(&lock);
        nvmlReturn_t status = find(&question, value);
        if (status == NVML_SUCCESS && !question.hangs)
            return status;
        pthread_mutex_unlock(&lock);
        if (!question.hangs)
            return status;
        sleep_ms(STEP_MS);
    }
}

static nvmlReturn_t ask_number(nvmlDevice_t card, const char *field, long long *answer)
{
    const struct json *value;
    nvmlReturn_t status = ask(card, field, &value);
    if (status != NVML_SUCCESS)
        return status;
    const struct field *known_field = field_named(card ? CARD_FIELDS : SYSTEM_FIELDS, field);
    *answer = known_field->type == TRUTH   ? value->truth
              : known_field->type == WATTS ? (long long)(value->number * 1000 + 0.5)
                                           : value->integer;
    pthread_mutex_unlock(&lock);
    return NVML_SUCCESS;
}

static nvmlReturn_t copy_text(const char *text, char *answer, size_t size)
{
    size_t needed = strlen(text) + 1;
    if (needed > size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(answer, text, needed);
    return NVML_SUCCESS;
}

static nvmlReturn_t ask_text(nvmlDevice_t card, const char *field, char *answer, size_t size)
{
    const struct json *value;
    nvmlReturn_t status = ask(card, field, &value);
    if (status != NVML_SUCCESS)
        return status;
    status = copy_text(value->text, answer, size);
    pthread_mutex_unlock(&lock);
    return status;
}

nvmlReturn_t state_begin(void)
{
    const struct json *nothing;
    if (on_a_rig() && access(DEVICE, R_OK | W_OK) != 0) {
        complain(DEVICE, strerror(errno));
        return NVML_ERROR_DRIVER_NOT_LOADED;
    }
    nvmlReturn_t status = ask(NULL, NULL, &nothing);
    if (status == NVML_SUCCESS)
        pthread_mutex_unlock(&lock);
    return status;
}

void state_end(void)
{
    pthread_mutex_lock(&lock);
    forget();
    state_status = NVML_SUCCESS;
    pthread_mutex_unlock(&lock);
}

nvmlReturn_t system_number(const char *field, long long *answer)
{
    return ask_number(NULL, field, answer);
}

nvmlReturn_t system_text(const char *field, char *answer, size_t size)
{
    return ask_text(NULL, field, answer, size);
}

/* --- Cards -------------------------------------------------------------------------------------- */

/* The caller holds the lock. NULL when more cards were seen than anybody has. */
static nvmlDevice_t handle_of(const struct json *card)
{
    const char *uuid = json_member(card, "uuid")->text;
    for (unsigned i = 0; i < known_count; i++)
        if (!strcmp(known[i].uuid, uuid))
            return &known[i];
    if (known_count == MAX_KNOWN)
        return NULL;
    strcpy(known[known_count].uuid, uuid); /* value_fits() has seen to its length */
    return &known[known_count++];
}

bool is_card(nvmlDevice_t device)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < known_count; i++)
        found = found || device == &known[i];
    pthread_mutex_unlock(&lock);
    return found;
}

nvmlReturn_t card_count(unsigned *answer)
{
    const struct json *cards;
    nvmlReturn_t status = ask(NULL, "cards", &cards);
    if (status != NVML_SUCCESS)
        return status;
    *answer = 0;
    for (const struct json *card = cards->first; card; card = card->next)
        ++*answer;
    pthread_mutex_unlock(&lock);
    return NVML_SUCCESS;
}

/* A lost card has a place in the list, but there is no handle to be had: it does not answer. */
static nvmlReturn_t answers(nvmlDevice_t device, nvmlDevice_t *answer)
{
    const struct json *nothing;
    if (!device)
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    nvmlReturn_t status = ask(device, NULL, &nothing);
    if (status != NVML_SUCCESS)
        return status;
    pthread_mutex_unlock(&lock);
    *answer = device;
    return NVML_SUCCESS;
}

static const struct json *nth(const struct json *cards, unsigned index)
{
    const struct json *card = cards->first;
    for (; card && index > 0; index--)
        card = card->next;
    return card;
}

nvmlReturn_t card_address(unsigned index, char *answer, size_t size)
{
    const struct json *cards;
    nvmlReturn_t status = ask(NULL, "cards", &cards);
    if (status != NVML_SUCCESS)
        return status;
    const struct json *card = nth(cards, index);
    status = card ? copy_text(json_member(card, "pci_bus_id")->text, answer, size)
                  : NVML_ERROR_INVALID_ARGUMENT;
    pthread_mutex_unlock(&lock);
    return status;
}

nvmlReturn_t card_at(unsigned index, nvmlDevice_t *answer)
{
    const struct json *cards;
    nvmlReturn_t status = ask(NULL, "cards", &cards);
    if (status != NVML_SUCCESS)
        return status;
    const struct json *card = nth(cards, index);
    nvmlDevice_t device = card ? handle_of(card) : NULL;
    pthread_mutex_unlock(&lock);
    return card ? answers(device, answer) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t card_with(const char *field, bool (*same)(const char *, const char *), const char *wanted,
                       nvmlDevice_t *answer)
{
    const struct json *cards;
    nvmlReturn_t status = ask(NULL, "cards", &cards);
    if (status != NVML_SUCCESS)
        return status;
    const struct json *card = cards->first;
    while (card && !same(json_member(card, field)->text, wanted))
        card = card->next;
    nvmlDevice_t device = card ? handle_of(card) : NULL;
    pthread_mutex_unlock(&lock);
    return card ? answers(device, answer) : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t card_index(nvmlDevice_t device, unsigned *answer)
{
    const struct json *nothing;
    nvmlReturn_t status = ask(device, NULL, &nothing);
    if (status != NVML_SUCCESS)
        return status;
    *answer = 0;
    const struct json *card = json_member(state, "cards")->first;
    for (; strcmp(json_member(card, "uuid")->text, device->uuid) != 0; card = card->next)
        ++*answer;
    pthread_mutex_unlock(&lock);
    return NVML_SUCCESS;
}

nvmlReturn_t card_number(nvmlDevice_t device, const char *field, long long *answer)
{
    return ask_number(device, field, answer);
}

nvmlReturn_t card_text(nvmlDevice_t device, const char *field, char *answer, size_t size)
{
    return ask_text(device, field, answer, size);
}

nvmlReturn_t card_processes(nvmlDevice_t device, struct process *list, unsigned room, unsigned *count)
{
    const struct json *processes;
    nvmlReturn_t status = ask(device, "processes", &processes);
    if (status != NVML_SUCCESS)
        return status;
    *count = 0;
    for (const struct json *process = processes->first; process; process = process->next, ++*count) {
        if (*count < room) {
            list[*count].pid = (unsigned)json_member(process, "pid")->integer;
            list[*count].memory_mib = (unsigned long long)json_member(process, "memory_mib")->integer;
        }
    }
    pthread_mutex_unlock(&lock);
    return NVML_SUCCESS;
}

nvmlReturn_t process_name(unsigned pid, char *answer, size_t size)
{
    const struct json *cards;
    nvmlReturn_t status = ask(NULL, "cards", &cards);
    if (status != NVML_SUCCESS)
        return status;
    status = NVML_ERROR_NOT_FOUND;
    for (const struct json *card = cards->first; card; card = card->next) {
        const struct json *list = json_member(card, "processes");
        if (!list || list->kind != JSON_ARRAY)
            continue;
        for (const struct json *process = list->first; process; process = process->next) {
            const struct json *name = json_member(process, "name");
            if (name && json_member(process, "pid")->integer == pid)
                status = copy_text(name->text, answer, size);
        }
    }
    pthread_mutex_unlock(&lock);
    return status;
}

/* --- Events ------------------------------------------------------------------------------------- */

nvmlReturn_t card_last_event(nvmlDevice_t device, long long *id)
{
    const struct json *events;
    *id = 0;
    nvmlReturn_t status = ask(device, "events", &events);
    if (status != NVML_SUCCESS)
        return status;
    for (const struct json *event = events->first; event; event = event->next)
        if (json_member(event, "id")->integer > *id)
            *id = json_member(event, "id")->integer;
    pthread_mutex_unlock(&lock);
    return NVML_SUCCESS;
}

bool card_next_event(nvmlDevice_t device, long long after, struct event *answer)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    const struct json *card = refresh() == NVML_SUCCESS ? find_card(device) : NULL;
    const struct json *events = card ? json_member(card, "events") : NULL;
    for (const struct json *event = events && events->kind == JSON_ARRAY ? events->first : NULL; event;
         event = event->next) {
        long long id = json_member(event, "id")->integer;
        if (id > after && (!found || id < answer->id)) {
            found = true;
            answer->id = id;
            answer->xid = (unsigned long long)json_member(event, "xid")->integer;
        }
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* --- Settings that programs make: lines "UUID NAME VALUE" --------------------------------------- */

static void settings_path(char path[PATH_SIZE])
{
    if (on_a_rig())
        snprintf(path, PATH_SIZE, "%s", DEFAULT_SETTINGS);
    else
        snprintf(path, PATH_SIZE, "%s.settings", state_path());
}

/* Opens the settings for oneself: other processes wait. -1 with errno when that cannot be. */
static int open_settings(int flags, int operation)
{
    char path[PATH_SIZE];
    settings_path(path);
    int descriptor = open(path, flags | O_CLOEXEC, 0644);
    while (descriptor >= 0 && flock(descriptor, operation) != 0) {
        if (errno != EINTR) {
            close(descriptor);
            return -1;
        }
    }
    return descriptor;
}

static bool is_setting(const char *line, const char *uuid, const char *name, long long *value)
{
    char line_uuid[UUID_SIZE], line_name[32];
    long long line_value;
    if (sscanf(line, "%79s %31s %lld", line_uuid, line_name, &line_value) != 3 ||
        strcmp(line_uuid, uuid) != 0 || strcmp(line_name, name) != 0)
        return false;
    *value = line_value;
    return true;
}

bool setting_get(nvmlDevice_t device, const char *name, long long *value)
{
    bool found = false;
    size_t length;
    int descriptor = open_settings(O_RDONLY, LOCK_SH);
    char *text = descriptor < 0 ? NULL : read_file(descriptor, &length);
    for (char *line = text; line && *line; line = strchr(line, '\n'), line += line ? 1 : 0)
        found = is_setting(line, device->uuid, name, value) || found;
    free(text);
    if (descriptor >= 0)
        close(descriptor);
    return found;
}

nvmlReturn_t setting_put(nvmlDevice_t device, const char *name, long long value)
{
    char line[UUID_SIZE + 64];
    /* The last line of a name holds, and a test sets few: nothing is ever taken out. */
    int size = snprintf(line, sizeof line, "%s %s %lld\n", device->uuid, name, value);
    int descriptor = open_settings(O_WRONLY | O_APPEND | O_CREAT, LOCK_EX);
    if (descriptor < 0)
        return NVML_ERROR_NO_PERMISSION;
    bool written = write(descriptor, line, (size_t)size) == size;
    close(descriptor);
    return written ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}
