/* What is simulated just now: the file that tests write, and the settings that programs have made.
 *
 * The file is read anew at each question, so there is nothing to signal and no change is missed. One
 * lock guards what was read; nobody holds it while a call hangs, so other threads go on. */
#ifndef SIMULATED_STATE_H
#define SIMULATED_STATE_H

#include <stdbool.h>
#include <stddef.h>

#include "nvml.h"

enum { MAX_CARDS = 32, UUID_SIZE = 80, NAME_SIZE = 96, STEP_MS = 20 };

/* A handle stands for a UUID, not for a place in the list: it stays true when cards come and go. */
struct nvmlDevice_st {
    char uuid[UUID_SIZE];
};

struct process {
    unsigned pid;
    unsigned long long memory_mib;
};

struct event {
    long long id;
    unsigned long long xid;
};

/* Whether the file can be read and the driver is there. */
nvmlReturn_t state_begin(void);
/* Forgets all that was read. */
void state_end(void);

nvmlReturn_t system_number(const char *field, long long *answer);
nvmlReturn_t system_text(const char *field, char *answer, size_t size);

nvmlReturn_t card_count(unsigned *answer);
nvmlReturn_t card_at(unsigned index, nvmlDevice_t *answer);
nvmlReturn_t card_with(const char *field, bool (*same)(const char *, const char *), const char *wanted,
                       nvmlDevice_t *answer);
bool is_card(nvmlDevice_t device);
/* The PCI address of the card at a place in the list, whether it answers or not. */
nvmlReturn_t card_address(unsigned index, char *answer, size_t size);

/* The card's place in the list. */
nvmlReturn_t card_index(nvmlDevice_t device, unsigned *answer);
/* A field of a card. Watts are answered in thousandths, all else as it stands in the file. */
nvmlReturn_t card_number(nvmlDevice_t device, const char *field, long long *answer);
nvmlReturn_t card_text(nvmlDevice_t device, const char *field, char *answer, size_t size);
/* Fills `list` with up to `room` processes; `*count` becomes the number that there are. */
nvmlReturn_t card_processes(nvmlDevice_t device, struct process *list, unsigned room, unsigned *count);
nvmlReturn_t process_name(unsigned pid, char *answer, size_t size);

/* The id of the card's latest event, 0 when it had none. */
nvmlReturn_t card_last_event(nvmlDevice_t device, long long *id);
/* The card's first event behind `after`; false when there is none. Does not hang: nothing is asked. */
bool card_next_event(nvmlDevice_t device, long long after, struct event *answer);

/* A setting that a program made (a power limit in mW, persistence); false when it made none. */
bool setting_get(nvmlDevice_t device, const char *name, long long *value);
nvmlReturn_t setting_put(nvmlDevice_t device, const char *name, long long value);

long long now_ms(void);
void sleep_ms(long long milliseconds);

#endif
