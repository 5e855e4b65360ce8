/* A simulated NVML: libnvidia-ml.so.1 without a driver and without cards, for tests.
 *
 * Programs that load the real library (pynvml, and with it HeartCode's exporter) load this one in its
 * place and find the cards that a JSON file describes: $SIMULATED_GPUS, by default
 * /etc/simulated-gpus.json. tests/nvml/cards.py writes that file; state.c says what may stand in it.
 * Replace the file (write another, rename it) and the next call answers by the new one.
 *
 * What it simulates:
 *   - the functions and symbol versions below, as driver 550 has them: library and driver versions,
 *     finding cards by index, UUID and PCI address, name, memory, temperatures and their limits,
 *     power and its limits, utilization, fan, clocks and what slows them, PCIe link, compute
 *     capability, processes, persistence, events;
 *   - a field that a card does not have (it is not in the file): NVML_ERROR_NOT_SUPPORTED;
 *   - any field, a whole card ("card") or the driver ("init") that answers with an error
 *     ({"error": 15}: the card has fallen off the bus), late ({"hang_s": 2, "value": 60}) or not until
 *     the file says something else ({"hang": true}). Other threads are not held up;
 *   - a card that is taken from the list: indexes renumber, handles to it answer "GPU is lost";
 *   - Xid events: one that is appended to a card's "events" wakes whoever waits for it;
 *   - settings (power limit, persistence mode): kept for all programs in $SIMULATED_GPUS.settings, by
 *     default /dev/simulated-gpus.settings, so that a reboot forgets them as a card does; cards.py
 *     forgets those of a card that it loses;
 *   - with the default file: that a program must reach /dev/nvidiactl (here a plain file), or there is
 *     no driver for it. No boot has it: nvidia_modprobe.py makes it, which nvidia_smi.py calls for root
 *     as the real library does;
 *   - no state file: the driver is not loaded. One that makes no sense: a line on stderr, and each
 *     call answers NVML_ERROR_UNKNOWN.
 *
 * What it does not simulate: CUDA, the cards' own device nodes, /proc/driver/nvidia, the kernel's log (a real Xid
 * stands there too), any connection between fields (memory in use does not follow from processes, nor
 * power draw from its limit), who may change settings (whoever may write their file), MIG, vGPU, NVLink,
 * ECC, units, field values, accounting. Functions that are missing here are missing in the library:
 * pynvml raises FunctionNotFound, as with a driver that is too old for it. nvmlDeviceGetTemperatureV
 * and what else came after 550 is left out for that reason.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "nvml.h"
#include "state.h"

#define API __attribute__((visibility("default")))
#define MIB (1ULL << 20)

/* What every function looks at first. */
#define EXPECT(fits)                                                                                  \
    do {                                                                                              \
        if (!users)                                                                                   \
            return NVML_ERROR_UNINITIALIZED;                                                          \
        if (!(fits))                                                                                  \
            return NVML_ERROR_INVALID_ARGUMENT;                                                       \
    } while (0)

#define TRY(call)                                                                                     \
    do {                                                                                              \
        nvmlReturn_t tried = (call);                                                                  \
        if (tried != NVML_SUCCESS)                                                                    \
            return tried;                                                                             \
    } while (0)

static atomic_int users; /* nvmlInit may be called several times, and nvmlShutdown as often */

/* --- Library and driver ------------------------------------------------------------------------- */

API nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    TRY(state_begin());
    users++;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

API nvmlReturn_t nvmlInit(void)
{
    return nvmlInitWithFlags(0);
}

API nvmlReturn_t nvmlShutdown(void)
{
    EXPECT(true);
    if (--users == 0)
        state_end();
    return NVML_SUCCESS;
}

API const char *nvmlErrorString(nvmlReturn_t result)
{
    static const char *const words[] = {
        "Success",
        "Uninitialized",
        "Invalid Argument",
        "Not Supported",
        "Insufficient Permissions",
        "Already Initialized",
        "Not Found",
        "Insufficient Size",
        "Insufficient External Power",
        "Driver Not Loaded",
        "Timeout",
        "Interrupt Request Issue",
        "NVML Shared Library Not Found",
        "Function Not Found",
        "Corrupted infoROM",
        "GPU is lost",
        "GPU requires reset",
        "The operating system has blocked the request",
        "Driver/library version mismatch",
        "In use by another client",
        "Insufficient Memory",
        "No data",
        "ECC is not available on vGPU",
        "Insufficient resources",
        "Frequency not supported",
        "Argument version mismatch",
    };
    return (unsigned)result < sizeof words / sizeof *words ? words[result] : "Unknown Error";
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    EXPECT(version);
    return system_text("driver_version", version, length);
}

API nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    EXPECT(version);
    return system_text("nvml_version", version, length);
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    long long answer;
    EXPECT(version);
    TRY(system_number("cuda_version", &answer));
    *version = (int)answer;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

API nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length)
{
    EXPECT(name && length);
    return process_name(pid, name, length);
}

/* --- Finding cards ------------------------------------------------------------------------------ */

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    EXPECT(count);
    return card_count(count);
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    EXPECT(device);
    return card_at(index, device);
}

static bool same_uuid(const char *one, const char *other)
{
    return strcmp(one, other) == 0;
}

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    EXPECT(uuid && device);
    return card_with("uuid", same_uuid, uuid, device);
}

struct address {
    unsigned domain, bus, device, function;
};

/* 00000000:01:00.0, 0000:01:00.0 or 01:00.0. */
static bool read_address(const char *text, struct address *address)
{
    int end = 0;
    if (sscanf(text, "%8x:%2x:%2x.%1x%n", &address->domain, &address->bus, &address->device,
               &address->function, &end) == 4 &&
        !text[end])
        return true;
    address->domain = 0;
    end = 0;
    return sscanf(text, "%2x:%2x.%1x%n", &address->bus, &address->device, &address->function, &end) ==
               3 &&
           !text[end];
}

static bool same_address(const char *one, const char *other)
{
    struct address left, right;
    return read_address(one, &left) && read_address(other, &right) && left.domain == right.domain &&
           left.bus == right.bus && left.device == right.device && left.function == right.function;
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *address, nvmlDevice_t *device)
{
    struct address readable;
    EXPECT(address && device && read_address(address, &readable));
    return card_with("pci_bus_id", same_address, address, device);
}

/* Not NVML's: nvidia-smi names the address of a card for which there is no handle. */
API nvmlReturn_t simulatedAddressByIndex(unsigned index, char *text, unsigned length)
{
    EXPECT(text);
    return card_address(index, text, length);
}

/* --- Who a card is ------------------------------------------------------------------------------ */

static nvmlReturn_t text_of(nvmlDevice_t device, const char *field, char *text, unsigned length)
{
    EXPECT(is_card(device) && text);
    return card_text(device, field, text, length);
}

static nvmlReturn_t number_of(nvmlDevice_t device, const char *field, unsigned *number)
{
    long long answer;
    EXPECT(is_card(device) && number);
    TRY(card_number(device, field, &answer));
    *number = (unsigned)answer;
    return NVML_SUCCESS;
}

#define TEXT_GETTER(function, field)                                                                  \
    API nvmlReturn_t function(nvmlDevice_t device, char *text, unsigned length)                       \
    {                                                                                                 \
        return text_of(device, field, text, length);                                                  \
    }

#define NUMBER_GETTER(function, field)                                                                \
    API nvmlReturn_t function(nvmlDevice_t device, unsigned *number)                                  \
    {                                                                                                 \
        return number_of(device, field, number);                                                      \
    }

TEXT_GETTER(nvmlDeviceGetName, "name")
TEXT_GETTER(nvmlDeviceGetUUID, "uuid")
TEXT_GETTER(nvmlDeviceGetSerial, "serial")
TEXT_GETTER(nvmlDeviceGetVbiosVersion, "vbios_version")

API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index)
{
    EXPECT(is_card(device) && index);
    return card_index(device, index);
}

API nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned *minor)
{
    return nvmlDeviceGetIndex(device, minor);
}

static nvmlReturn_t constant_of(nvmlDevice_t device, unsigned constant, unsigned *answer)
{
    unsigned index;
    EXPECT(is_card(device) && answer);
    TRY(card_index(device, &index)); /* a lost card answers nothing, not even this */
    *answer = constant;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, unsigned *brand)
{
    return constant_of(device, NVML_BRAND_NVIDIA, brand);
}

API nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned *architecture)
{
    return constant_of(device, NVML_DEVICE_ARCH_PASCAL, architecture);
}

static nvmlReturn_t hex_of(nvmlDevice_t device, const char *field, unsigned *answer)
{
    char text[UUID_SIZE];
    int end = 0;
    *answer = 0;
    nvmlReturn_t status = card_text(device, field, text, sizeof text);
    if (status == NVML_ERROR_NOT_SUPPORTED)
        return NVML_SUCCESS; /* a PCI device without subsystem has zeros there */
    TRY(status);
    return sscanf(text, "%8x%n", answer, &end) == 1 && !text[end] ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    char text[UUID_SIZE];
    struct address at;
    EXPECT(is_card(device) && pci);
    TRY(card_text(device, "pci_bus_id", text, sizeof text));
    if (!read_address(text, &at))
        return NVML_ERROR_UNKNOWN;
    memset(pci, 0, sizeof *pci);
    TRY(hex_of(device, "pci_device_id", &pci->pciDeviceId));
    TRY(hex_of(device, "pci_subsystem_id", &pci->pciSubSystemId));
    pci->domain = at.domain;
    pci->bus = at.bus;
    pci->device = at.device;
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.%X", at.domain, at.bus & 0xff,
             at.device & 0xff, at.function & 0xf);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.%X", at.domain & 0xffff,
             at.bus & 0xff, at.device & 0xff, at.function & 0xf);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    char text[UUID_SIZE];
    int end = 0;
    EXPECT(is_card(device) && major && minor);
    TRY(card_text(device, "compute_capability", text, sizeof text));
    return sscanf(text, "%2d.%1d%n", major, minor, &end) == 2 && !text[end] ? NVML_SUCCESS
                                                                             : NVML_ERROR_UNKNOWN;
}

/* --- Memory, temperature, power ----------------------------------------------------------------- */

/* Driver 510 and later: the total is all that is on the board, and a part of it is reserved. */
static nvmlReturn_t memory_of(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    long long total, used, reserved = 0;
    TRY(card_number(device, "memory_total_mib", &total));
    TRY(card_number(device, "memory_used_mib", &used));
    nvmlReturn_t status = card_number(device, "memory_reserved_mib", &reserved);
    if (status != NVML_ERROR_NOT_SUPPORTED)
        TRY(status);
    memory->total = (unsigned long long)total * MIB;
    memory->used = (unsigned long long)used * MIB;
    memory->reserved = (unsigned long long)reserved * MIB;
    unsigned long long taken = memory->used + memory->reserved;
    memory->free = memory->total > taken ? memory->total - taken : 0;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    EXPECT(is_card(device) && memory);
    if (memory->version != (2U << 24 | sizeof *memory))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return memory_of(device, memory);
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    nvmlMemory_v2_t parts;
    EXPECT(is_card(device) && memory);
    TRY(memory_of(device, &parts));
    memory->total = parts.total;
    memory->free = parts.free;
    memory->used = parts.used + parts.reserved;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory)
{
    long long total, used;
    EXPECT(is_card(device) && memory);
    TRY(card_number(device, "bar1_total_mib", &total));
    TRY(card_number(device, "bar1_used_mib", &used));
    memory->bar1Total = (unsigned long long)total * MIB;
    memory->bar1Used = (unsigned long long)used * MIB;
    memory->bar1Free = total > used ? memory->bar1Total - memory->bar1Used : 0;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned *degrees)
{
    EXPECT(sensor == NVML_TEMPERATURE_GPU);
    return number_of(device, "temperature", degrees);
}

API nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned which,
                                                   unsigned *degrees)
{
    EXPECT(is_card(device) && degrees && which < NVML_TEMPERATURE_THRESHOLD_COUNT);
    switch (which) {
    case NVML_TEMPERATURE_THRESHOLD_SHUTDOWN:
        return number_of(device, "temperature_shutdown", degrees);
    case NVML_TEMPERATURE_THRESHOLD_SLOWDOWN:
        return number_of(device, "temperature_slowdown", degrees);
    case NVML_TEMPERATURE_THRESHOLD_GPU_MAX:
        return number_of(device, "temperature_max", degrees);
    default:
        return NVML_ERROR_NOT_SUPPORTED;
    }
}

NUMBER_GETTER(nvmlDeviceGetPowerUsage, "power_draw_w")
NUMBER_GETTER(nvmlDeviceGetPowerManagementDefaultLimit, "power_limit_default_w")

API nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned *milliwatts)
{
    long long set;
    TRY(number_of(device, "power_limit_w", milliwatts));
    if (setting_get(device, "power_limit_mw", &set))
        *milliwatts = (unsigned)set;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned *milliwatts)
{
    return nvmlDeviceGetPowerManagementLimit(device, milliwatts);
}

API nvmlReturn_t nvmlDeviceGetPowerManagementMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
    unsigned limit;
    EXPECT(is_card(device) && mode);
    TRY(nvmlDeviceGetPowerManagementLimit(device, &limit));
    *mode = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *least,
                                                              unsigned *most)
{
    TRY(number_of(device, "power_limit_min_w", least));
    return number_of(device, "power_limit_max_w", most);
}

API nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned milliwatts)
{
    unsigned now, least, most;
    TRY(nvmlDeviceGetPowerManagementLimit(device, &now));
    TRY(nvmlDeviceGetPowerManagementLimitConstraints(device, &least, &most));
    EXPECT(milliwatts >= least && milliwatts <= most);
    return setting_put(device, "power_limit_mw", milliwatts);
}

/* Pascal has no such counter. */
API nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy)
{
    unsigned index;
    EXPECT(is_card(device) && energy);
    TRY(card_index(device, &index));
    return NVML_ERROR_NOT_SUPPORTED;
}

/* --- Work, fan, clocks -------------------------------------------------------------------------- */

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    EXPECT(rates);
    TRY(number_of(device, "utilization_gpu", &rates->gpu));
    return number_of(device, "utilization_memory", &rates->memory);
}

static nvmlReturn_t sampled(nvmlDevice_t device, const char *field, unsigned *rate, unsigned *period_us)
{
    EXPECT(period_us);
    *period_us = 167000;
    return number_of(device, field, rate);
}

API nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, unsigned *rate, unsigned *period)
{
    return sampled(device, "utilization_encoder", rate, period);
}

API nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, unsigned *rate, unsigned *period)
{
    return sampled(device, "utilization_decoder", rate, period);
}

NUMBER_GETTER(nvmlDeviceGetFanSpeed, "fan_speed")

API nvmlReturn_t nvmlDeviceGetNumFans(nvmlDevice_t device, unsigned *count)
{
    unsigned speed;
    EXPECT(is_card(device) && count);
    nvmlReturn_t status = number_of(device, "fan_speed", &speed);
    *count = status == NVML_SUCCESS;
    return status == NVML_ERROR_NOT_SUPPORTED ? NVML_SUCCESS : status;
}

API nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t device, unsigned fan, unsigned *percent)
{
    EXPECT(fan == 0);
    return number_of(device, "fan_speed", percent);
}

API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned which, unsigned *mhz)
{
    static const char *const fields[NVML_CLOCK_COUNT] = {"clock_graphics_mhz", "clock_sm_mhz",
                                                         "clock_memory_mhz", "clock_video_mhz"};
    EXPECT(which < NVML_CLOCK_COUNT);
    return number_of(device, fields[which], mhz);
}

API nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned which, unsigned *mhz)
{
    static const char *const fields[NVML_CLOCK_COUNT] = {
        "clock_graphics_max_mhz", "clock_sm_max_mhz", "clock_memory_max_mhz", "clock_video_max_mhz"};
    EXPECT(which < NVML_CLOCK_COUNT);
    return number_of(device, fields[which], mhz);
}

NUMBER_GETTER(nvmlDeviceGetPerformanceState, "performance_state")
NUMBER_GETTER(nvmlDeviceGetPowerState, "performance_state")

API nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *bits)
{
    unsigned answer;
    EXPECT(bits);
    TRY(number_of(device, "clock_event_reasons", &answer));
    *bits = answer;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device,
                                                           unsigned long long *bits)
{
    return nvmlDeviceGetCurrentClocksEventReasons(device, bits); /* the name before driver 535 */
}

/* --- PCIe --------------------------------------------------------------------------------------- */

NUMBER_GETTER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation")
NUMBER_GETTER(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max")
NUMBER_GETTER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
NUMBER_GETTER(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max")
NUMBER_GETTER(nvmlDeviceGetPcieReplayCounter, "pcie_replays")

API nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, unsigned which, unsigned *kib_s)
{
    EXPECT(which < NVML_PCIE_UTIL_COUNT);
    return number_of(device, which == NVML_PCIE_UTIL_TX_BYTES ? "pcie_tx_kib_s" : "pcie_rx_kib_s",
                     kib_s);
}

/* --- Modes -------------------------------------------------------------------------------------- */

NUMBER_GETTER(nvmlDeviceGetComputeMode, "compute_mode")
NUMBER_GETTER(nvmlDeviceGetDisplayActive, "display_active")
NUMBER_GETTER(nvmlDeviceGetDisplayMode, "display_mode")

API nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, unsigned *mode)
{
    long long set;
    TRY(number_of(device, "persistence_mode", mode));
    if (setting_get(device, "persistence_mode", &set))
        *mode = (unsigned)set;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t device, unsigned mode)
{
    unsigned now;
    TRY(nvmlDeviceGetPersistenceMode(device, &now));
    EXPECT(mode <= NVML_FEATURE_ENABLED);
    return setting_put(device, "persistence_mode", mode);
}

/* These cards have neither ECC nor MIG. */
static nvmlReturn_t refuse_modes(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    unsigned index;
    EXPECT(is_card(device) && current && pending);
    TRY(card_index(device, &index));
    return NVML_ERROR_NOT_SUPPORTED;
}

API nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    return refuse_modes(device, current, pending);
}

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    return refuse_modes(device, current, pending);
}

/* --- Processes ---------------------------------------------------------------------------------- */

enum { MAX_PROCESSES = 256 };

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count,
                                                         nvmlProcessInfo_t *infos)
{
    struct process found[MAX_PROCESSES];
    unsigned room, there;
    EXPECT(is_card(device) && count && (infos || !*count));
    room = *count;
    TRY(card_processes(device, found, MAX_PROCESSES, &there));
    *count = there;
    if (there > room || there > MAX_PROCESSES)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < there; i++)
        infos[i] = (nvmlProcessInfo_t){found[i].pid, found[i].memory_mib * MIB, ~0U, ~0U};
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned *count,
                                                         nvmlProcessInfo_t *infos)
{
    return nvmlDeviceGetComputeRunningProcesses_v3(device, count, infos);
}

/* There is no display, so there is nothing that draws. */
API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned *count,
                                                          nvmlProcessInfo_t *infos)
{
    (void)infos;
    return constant_of(device, 0, count);
}

/* --- Events ------------------------------------------------------------------------------------- */

struct nvmlEventSet_st {
    struct {
        nvmlDevice_t device;
        unsigned long long types;
        long long seen; /* id of the last event that was delivered, or was there before */
    } watched[MAX_CARDS];
    unsigned count;
};

API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    EXPECT(set);
    *set = calloc(1, sizeof **set);
    return *set ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    EXPECT(set);
    free(set);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types)
{
    long long last;
    EXPECT(is_card(device) && types);
    TRY(card_last_event(device, &last));
    *types = NVML_EVENTS; /* but nothing but Xids ever happens */
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types,
                                          nvmlEventSet_t set)
{
    long long last;
    EXPECT(is_card(device) && set);
    TRY(card_last_event(device, &last));
    if (types & ~(unsigned long long)NVML_EVENTS)
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned place = 0;
    while (place < set->count && set->watched[place].device != device)
        place++;
    if (place == MAX_CARDS)
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    set->watched[place].device = device;
    set->watched[place].types |= types;
    if (place == set->count) {
        set->watched[place].seen = last;
        set->count++;
    }
    return NVML_SUCCESS;
}

static bool take_event(nvmlEventSet_t set, nvmlEventData_t *data)
{
    struct event event;
    for (unsigned i = 0; i < set->count; i++) {
        if (!(set->watched[i].types & NVML_EVENT_XID) ||
            !card_next_event(set->watched[i].device, set->watched[i].seen, &event))
            continue;
        set->watched[i].seen = event.id;
        *data = (nvmlEventData_t){set->watched[i].device, NVML_EVENT_XID, event.xid, ~0U, ~0U};
        return true;
    }
    return false;
}

API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms)
{
    EXPECT(set && data);
    long long end = now_ms() + timeout_ms;
    while (!take_event(set, data)) {
        long long left = end - now_ms();
        if (left <= 0)
            return NVML_ERROR_TIMEOUT;
        sleep_ms(left < STEP_MS ? left : STEP_MS);
    }
    return NVML_SUCCESS;
}
