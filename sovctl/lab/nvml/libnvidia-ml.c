/*
 * A simulated libnvidia-ml.so.1: answers NVML calls from a plain text file, so that the real pynvml binding and every
 * line of ours above it run on machines without a GPU.
 *
 * The file is $SOVCTL_LAB_NVML_STATE, else $SOVCTL_LAB_DIR/nodes/$NODE/nvml.state with NODE = $SOVCTL_LAB_NODE or
 * $SLURMD_NODENAME. One `key=value` a line; `#` starts a comment line. It is read again whenever it changes.
 *
 *   driver_version=580.95.05        gpu0.uuid=GPU-...          gpu0.temperature_c=41
 *   gpu0.present=0                  vanished: not enumerated, the indices behind it move up
 *   gpu0.lost=1                     enumerated, every query answers NVML_ERROR_GPU_IS_LOST
 *   gpu0.hang=1, init_hang=1        queries on this GPU, or nvmlInit, never return
 *   gpu0.nvlink_count=18            links 0..17, active unless gpu0.nvlink3.active=0
 *   gpu0.nvlink3.replay=7           likewise recovery, crc_flit, crc_data, ecc_data; 0 when absent
 *   gpu0.processes=4711:1073741824  pid:bytes, comma separated; empty or absent: none
 *
 * A value that is not in the file answers NVML_ERROR_NOT_SUPPORTED, as a real driver does for what a GPU lacks.
 * Struct layouts are those of nvml.h (CUDA 13), checked against the sizes pynvml passes.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    VERSION_MISMATCH = 25,
    MAX_GPUS = 64,
    MAX_LINKS = 36,
    KEY_SIZE = 64,
    MAX_STATE_BYTES = 1 << 20,
};

#define EXPORT __attribute__((visibility("default")))

typedef int nvmlReturn_t;
typedef struct gpu *nvmlDevice_t;

struct gpu {
    int slot; /* N of `gpuN.` in the file; stays with the handle when others vanish */
};

struct entry {
    char *key;
    char *value;
};

struct memory_v1 {
    unsigned long long total, free, used;
};

struct memory_v2 {
    unsigned int version;
    unsigned long long total, reserved, free, used;
};

struct utilization {
    unsigned int gpu, memory;
};

struct pci_info {
    char bus_id_legacy[16];
    unsigned int domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};

struct temperature_v1 {
    unsigned int version, sensor;
    int temperature;
};

struct process_info {
    unsigned int pid;
    unsigned long long used_memory;
    unsigned int gpu_instance, compute_instance;
};

struct field_value {
    unsigned int field, scope;
    long long timestamp, latency_us;
    unsigned int value_type;
    nvmlReturn_t result;
    union {
        double d;
        unsigned int ui;
        unsigned long long ull;
    } value;
};

static const unsigned int MEMORY_V2 = 0x02000028;
static const unsigned int TEMPERATURE_V1 = 0x0100000C;
static const unsigned int FIELD_RECOVERY_ACTION = 230;

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static int users;
static struct gpu gpus[MAX_GPUS];
static char *text;
static struct entry *entries;
static size_t entry_count;
static struct stat seen;
static int loaded;

/* ---- the state file ------------------------------------------------------------------------------------------ */

static int state_path(char *path, size_t size)
{
    const char *named = getenv("SOVCTL_LAB_NVML_STATE");
    const char *dir = getenv("SOVCTL_LAB_DIR");
    const char *node = getenv("SOVCTL_LAB_NODE");
    int length;

    if (node == NULL || *node == '\0')
        node = getenv("SLURMD_NODENAME");
    if (named != NULL && *named != '\0')
        length = snprintf(path, size, "%s", named);
    else if (dir != NULL && node != NULL)
        length = snprintf(path, size, "%s/nodes/%s/nvml.state", dir, node);
    else
        return 0;
    return length > 0 && (size_t)length < size;
}

static void forget_state(void)
{
    free(text);
    free(entries);
    text = NULL;
    entries = NULL;
    entry_count = 0;
    loaded = 0;
}

static void parse_state(void)
{
    size_t lines = 1;
    char *rest = NULL;
    char *line;

    for (const char *at = text; *at != '\0'; at++)
        lines += *at == '\n';
    entries = calloc(lines, sizeof(*entries));
    if (entries == NULL)
        return;
    for (line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char *equals = strchr(line, '=');

        if (*line == '#' || equals == NULL)
            continue;
        *equals = '\0';
        entries[entry_count].key = line;
        entries[entry_count].value = equals + 1;
        entry_count++;
    }
}

static int same_file(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static char *read_all(int descriptor, size_t size)
{
    char *data = malloc(size + 1);
    size_t filled = 0;

    while (data != NULL && filled < size) {
        ssize_t got = read(descriptor, data + filled, size - filled);

        if (got <= 0)
            break;
        filled += (size_t)got;
    }
    if (data != NULL)
        data[filled] = '\0';
    return data;
}

/* Writers replace the file by rename, so one that opens is whole. Call with the guard held. */
static nvmlReturn_t refresh(void)
{
    char path[4096];
    struct stat now;
    int descriptor;

    if (!state_path(path, sizeof(path)) || stat(path, &now) != 0 || now.st_size > MAX_STATE_BYTES) {
        forget_state();
        return DRIVER_NOT_LOADED;
    }
    if (loaded && same_file(&now, &seen))
        return OK;
    forget_state();
    descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return DRIVER_NOT_LOADED;
    if (fstat(descriptor, &seen) == 0 && seen.st_size <= MAX_STATE_BYTES)
        text = read_all(descriptor, (size_t)seen.st_size);
    close(descriptor);
    if (text == NULL)
        return DRIVER_NOT_LOADED;
    parse_state();
    loaded = 1;
    return OK;
}

static const char *find(const char *key)
{
    for (size_t i = 0; i < entry_count; i++)
        if (strcmp(entries[i].key, key) == 0)
            return entries[i].value;
    return NULL;
}

static const char *find_gpu(int slot, const char *name)
{
    char key[KEY_SIZE];

    snprintf(key, sizeof(key), "gpu%d.%s", slot, name);
    return find(key);
}

static int flag(int slot, const char *name, int otherwise)
{
    const char *value = find_gpu(slot, name);

    return value == NULL ? otherwise : atoi(value) != 0;
}

static unsigned int exists(int slot)
{
    return find_gpu(slot, "uuid") != NULL && flag(slot, "present", 1);
}

static void never_return(void)
{
    for (;;)
        pause();
}

/* ---- the frame of every call --------------------------------------------------------------------------------- */

static nvmlReturn_t enter(void)
{
    pthread_mutex_lock(&guard);
    return users > 0 ? refresh() : UNINITIALIZED;
}

static nvmlReturn_t leave(nvmlReturn_t result)
{
    pthread_mutex_unlock(&guard);
    return result;
}

/* Guard is held afterwards in any case: every caller ends in leave(). */
static nvmlReturn_t enter_gpu(nvmlDevice_t device)
{
    nvmlReturn_t result = enter();

    if (result != OK)
        return result;
    if (device < gpus || device >= gpus + MAX_GPUS)
        return INVALID_ARGUMENT;
    if (flag(device->slot, "hang", 0)) {
        pthread_mutex_unlock(&guard);
        never_return();
    }
    if (!exists(device->slot) || flag(device->slot, "lost", 0))
        return GPU_IS_LOST;
    return OK;
}

static nvmlReturn_t gpu_text(nvmlDevice_t device, const char *name, char *out, unsigned int size)
{
    nvmlReturn_t result = enter_gpu(device);
    const char *value;

    if (result != OK)
        return leave(result);
    value = find_gpu(device->slot, name);
    if (value == NULL)
        return leave(NOT_SUPPORTED);
    if (out == NULL || strlen(value) >= size)
        return leave(INSUFFICIENT_SIZE);
    strcpy(out, value);
    return leave(OK);
}

static nvmlReturn_t gpu_number(nvmlDevice_t device, const char *name, unsigned long long *out)
{
    nvmlReturn_t result = enter_gpu(device);
    const char *value;

    if (result != OK)
        return leave(result);
    value = find_gpu(device->slot, name);
    if (value == NULL || out == NULL)
        return leave(value == NULL ? NOT_SUPPORTED : INVALID_ARGUMENT);
    *out = strtoull(value, NULL, 0);
    return leave(OK);
}

static nvmlReturn_t gpu_uint(nvmlDevice_t device, const char *name, unsigned int *out)
{
    unsigned long long value = 0;
    nvmlReturn_t result = gpu_number(device, name, &value);

    if (result == OK)
        *out = (unsigned int)value;
    return result;
}

/* ---- library and system --------------------------------------------------------------------------------------- */

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    nvmlReturn_t result;
    const char *hang;

    (void)flags;
    pthread_mutex_lock(&guard);
    for (int i = 0; i < MAX_GPUS; i++)
        gpus[i].slot = i;
    result = refresh();
    hang = result == OK ? find("init_hang") : NULL;
    if (hang != NULL && atoi(hang) != 0) {
        pthread_mutex_unlock(&guard);
        never_return();
    }
    users += result == OK;
    return leave(result);
}

EXPORT nvmlReturn_t nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

EXPORT nvmlReturn_t nvmlInit(void)
{
    return nvmlInitWithFlags(0);
}

EXPORT nvmlReturn_t nvmlShutdown(void)
{
    pthread_mutex_lock(&guard);
    if (users == 0)
        return leave(UNINITIALIZED);
    users--;
    return leave(OK);
}

EXPORT const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case OK: return "The operation was successful";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    case VERSION_MISMATCH: return "Argument version mismatch";
    default: return "Unknown Error";
    }
}

static nvmlReturn_t system_text(const char *key, char *out, unsigned int size)
{
    nvmlReturn_t result = enter();
    const char *value = result == OK ? find(key) : NULL;

    if (result != OK)
        return leave(result);
    if (value == NULL)
        return leave(NOT_SUPPORTED);
    if (out == NULL || strlen(value) >= size)
        return leave(INSUFFICIENT_SIZE);
    strcpy(out, value);
    return leave(OK);
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int size)
{
    return system_text("driver_version", version, size);
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int size)
{
    return system_text("nvml_version", version, size);
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    nvmlReturn_t result = enter();
    const char *value = result == OK ? find("cuda_driver_version") : NULL;

    if (result != OK)
        return leave(result);
    if (value == NULL)
        return leave(NOT_SUPPORTED);
    *version = atoi(value);
    return leave(OK);
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    return nvmlSystemGetCudaDriverVersion(version);
}

/* ---- enumeration ---------------------------------------------------------------------------------------------- */

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    nvmlReturn_t result = enter();

    if (result != OK || count == NULL)
        return leave(result != OK ? result : INVALID_ARGUMENT);
    *count = 0;
    for (int slot = 0; slot < MAX_GPUS; slot++)
        *count += exists(slot);
    return leave(OK);
}

EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned int *count)
{
    return nvmlDeviceGetCount_v2(count);
}

static nvmlReturn_t hand_out(int slot, nvmlDevice_t *device)
{
    if (flag(slot, "lost", 0))
        return GPU_IS_LOST;
    *device = &gpus[slot];
    return OK;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    nvmlReturn_t result = enter();

    if (result != OK)
        return leave(result);
    for (int slot = 0; slot < MAX_GPUS; slot++)
        if (exists(slot) && index-- == 0)
            return leave(hand_out(slot, device));
    return leave(INVALID_ARGUMENT);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

static nvmlReturn_t handle_by(const char *name, const char *wanted, nvmlDevice_t *device)
{
    nvmlReturn_t result = enter();

    if (result != OK || wanted == NULL)
        return leave(result != OK ? result : INVALID_ARGUMENT);
    for (int slot = 0; slot < MAX_GPUS; slot++) {
        const char *value = exists(slot) ? find_gpu(slot, name) : NULL;

        if (value != NULL && strcasecmp(value, wanted) == 0)
            return leave(hand_out(slot, device));
    }
    return leave(NOT_FOUND);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    return handle_by("uuid", uuid, device);
}

/* Callers pass `0000:0F:00.0` as well as NVML's own `00000000:0F:00.0`. */
EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    char full[64];
    const char *colon = bus_id == NULL ? NULL : strchr(bus_id, ':');

    if (colon == NULL || colon - bus_id > 8 || strlen(bus_id) > 32)
        return INVALID_ARGUMENT;
    snprintf(full, sizeof(full), "%.*s%s", (int)(8 - (colon - bus_id)), "00000000", bus_id);
    return handle_by("pci_bus_id", full, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByPciBusId_v2(bus_id, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    return handle_by("serial", serial, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    nvmlReturn_t result = enter_gpu(device);

    if (result != OK)
        return leave(result);
    *index = 0;
    for (int slot = 0; slot < device->slot; slot++)
        *index += exists(slot);
    return leave(OK);
}

EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
    nvmlReturn_t result = enter_gpu(device);

    if (result == OK)
        *minor = (unsigned int)device->slot;
    return leave(result);
}

/* ---- identity ------------------------------------------------------------------------------------------------- */

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *out, unsigned int size)
{
    return gpu_text(device, "uuid", out, size);
}

EXPORT nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *out, unsigned int size)
{
    return gpu_text(device, "serial", out, size);
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *out, unsigned int size)
{
    return gpu_text(device, "name", out, size);
}

EXPORT nvmlReturn_t nvmlDeviceGetInforomImageVersion(nvmlDevice_t device, char *out, unsigned int size)
{
    return gpu_text(device, "inforom_version", out, size);
}

EXPORT nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *out, unsigned int size)
{
    return gpu_text(device, "vbios_version", out, size);
}

EXPORT nvmlReturn_t nvmlDeviceGetBoardPartNumber(nvmlDevice_t device, char *out, unsigned int size)
{
    return gpu_text(device, "part_number", out, size);
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, struct pci_info *out)
{
    char bus_id[sizeof(out->bus_id)];
    nvmlReturn_t result = gpu_text(device, "pci_bus_id", bus_id, sizeof(bus_id));
    unsigned int domain = 0, bus = 0, slot = 0;

    if (result != OK)
        return result;
    if (sscanf(bus_id, "%x:%x:%x", &domain, &bus, &slot) != 3)
        return INVALID_ARGUMENT;
    memset(out, 0, sizeof(*out));
    out->domain = domain;
    out->bus = bus;
    out->device = slot;
    out->device_id = 0x290110DE;
    out->subsystem_id = 0x199910DE;
    snprintf(out->bus_id, sizeof(out->bus_id), "%s", bus_id);
    snprintf(out->bus_id_legacy, sizeof(out->bus_id_legacy), "%04X:%02X:%02X.0", domain & 0xFFFF, bus & 0xFF,
             slot & 0xFF);
    return OK;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, struct pci_info *out)
{
    return nvmlDeviceGetPciInfo_v3(device, out);
}

/* ---- sensors -------------------------------------------------------------------------------------------------- */

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor, unsigned int *out)
{
    return sensor == 0 ? gpu_uint(device, "temperature_c", out) : INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, struct temperature_v1 *out)
{
    unsigned int celsius = 0;
    nvmlReturn_t result;

    if (out == NULL || out->version != TEMPERATURE_V1)
        return VERSION_MISMATCH;
    result = nvmlDeviceGetTemperature(device, out->sensor, &celsius);
    if (result == OK)
        out->temperature = (int)celsius;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts)
{
    return gpu_uint(device, "power_mw", milliwatts);
}

EXPORT nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *milliwatts)
{
    return gpu_uint(device, "power_limit_mw", milliwatts);
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int *milliwatts)
{
    return gpu_uint(device, "power_limit_mw", milliwatts);
}

EXPORT nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules)
{
    return gpu_number(device, "energy_mj", millijoules);
}

EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned int type, unsigned int *mhz)
{
    static const char *const keys[] = {"graphics_clock_mhz", "sm_clock_mhz", "memory_clock_mhz", "video_clock_mhz"};

    return type < 4 ? gpu_uint(device, keys[type], mhz) : INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned int type, unsigned int *mhz)
{
    static const char *const keys[] = {"graphics_clock_max_mhz", "sm_clock_max_mhz", "memory_clock_max_mhz",
                                       "video_clock_max_mhz"};

    return type < 4 ? gpu_uint(device, keys[type], mhz) : INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, struct utilization *out)
{
    nvmlReturn_t result = gpu_uint(device, "utilization_percent", &out->gpu);

    return result == OK ? gpu_uint(device, "memory_utilization_percent", &out->memory) : result;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, struct memory_v1 *out)
{
    nvmlReturn_t result = gpu_number(device, "memory_total", &out->total);

    if (result == OK)
        result = gpu_number(device, "memory_used", &out->used);
    if (result == OK)
        out->free = out->total - out->used;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, struct memory_v2 *out)
{
    struct memory_v1 memory = {0};
    nvmlReturn_t result;

    if (out == NULL || out->version != MEMORY_V2)
        return VERSION_MISMATCH;
    result = nvmlDeviceGetMemoryInfo(device, &memory);
    if (result != OK)
        return result;
    out->total = memory.total;
    out->used = memory.used;
    out->free = memory.free;
    out->reserved = 0;
    return OK;
}

EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *mask)
{
    return gpu_number(device, "clocks_event_reasons", mask);
}

EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *mask)
{
    return nvmlDeviceGetCurrentClocksEventReasons(device, mask);
}

EXPORT nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, unsigned int *mode)
{
    return gpu_uint(device, "persistence_mode", mode);
}

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    nvmlReturn_t result = gpu_uint(device, "mig_mode", current);

    if (result == OK)
        *pending = *current;
    return result;
}

/* ---- memory errors -------------------------------------------------------------------------------------------- */

EXPORT nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    nvmlReturn_t result = gpu_uint(device, "ecc_mode", current);

    if (result == OK)
        *pending = *current;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned int type, unsigned int counter,
                                                unsigned long long *count)
{
    static const char *const keys[2][2] = {{"ecc_volatile_corrected", "ecc_volatile_uncorrected"},
                                           {"ecc_aggregate_corrected", "ecc_aggregate_uncorrected"}};

    return type < 2 && counter < 2 ? gpu_number(device, keys[counter][type], count) : INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected, unsigned int *uncorrected,
                                              unsigned int *pending, unsigned int *failed)
{
    nvmlReturn_t result = gpu_uint(device, "remapped_rows_corrected", corrected);

    if (result == OK)
        result = gpu_uint(device, "remapped_rows_uncorrected", uncorrected);
    if (result == OK)
        result = gpu_uint(device, "remap_pending", pending);
    if (result == OK)
        result = gpu_uint(device, "remap_failed", failed);
    return result;
}

/* ---- links ---------------------------------------------------------------------------------------------------- */

static nvmlReturn_t link_number(nvmlDevice_t device, unsigned int link, const char *name, unsigned int otherwise,
                                unsigned long long *out)
{
    char key[KEY_SIZE];
    unsigned int links = 0;
    nvmlReturn_t result = gpu_uint(device, "nvlink_count", &links);

    if (result != OK)
        return result;
    if (link >= links || link >= MAX_LINKS)
        return INVALID_ARGUMENT;
    snprintf(key, sizeof(key), "nvlink%u.%s", link, name);
    result = gpu_number(device, key, out);
    if (result != NOT_SUPPORTED)
        return result;
    *out = otherwise;
    return OK;
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, unsigned int *active)
{
    unsigned long long value = 0;
    nvmlReturn_t result = link_number(device, link, "active", 1, &value);

    if (result == OK)
        *active = value != 0;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned int link, unsigned int counter,
                                                    unsigned long long *value)
{
    static const char *const keys[] = {"replay", "recovery", "crc_flit", "crc_data", "ecc_data"};

    return counter < 5 ? link_number(device, link, keys[counter], 0, value) : INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned int *generation)
{
    return gpu_uint(device, "pcie_generation", generation);
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned int *generation)
{
    return gpu_uint(device, "pcie_generation_max", generation);
}

EXPORT nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned int *lanes)
{
    return gpu_uint(device, "pcie_width", lanes);
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned int *lanes)
{
    return gpu_uint(device, "pcie_width_max", lanes);
}

EXPORT nvmlReturn_t nvmlDeviceGetPcieReplayCounter(nvmlDevice_t device, unsigned int *count)
{
    return gpu_uint(device, "pcie_replays", count);
}

/* ---- processes and fields ------------------------------------------------------------------------------------- */

static unsigned int count_processes(const char *list)
{
    unsigned int count = isdigit((unsigned char)*list) != 0;

    for (; *list != '\0'; list++)
        count += *list == ',' && isdigit((unsigned char)list[1]);
    return count;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                            struct process_info *out)
{
    nvmlReturn_t result = enter_gpu(device);
    const char *list = result == OK ? find_gpu(device->slot, "processes") : NULL;
    unsigned int wanted = list == NULL ? 0 : count_processes(list);

    if (result != OK || count == NULL)
        return leave(result != OK ? result : INVALID_ARGUMENT);
    if (*count < wanted) {
        *count = wanted;
        return leave(INSUFFICIENT_SIZE);
    }
    *count = 0;
    while (out != NULL && list != NULL && *count < wanted) {
        char *end = NULL;
        struct process_info *process = &out[(*count)++];

        memset(process, 0, sizeof(*process));
        process->pid = (unsigned int)strtoul(list, &end, 10);
        process->used_memory = *end == ':' ? strtoull(end + 1, &end, 10) : 0;
        process->gpu_instance = process->compute_instance = 0xFFFFFFFF;
        list = strchr(end, ',');
        list = list == NULL ? NULL : list + 1;
    }
    return leave(OK);
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                            struct process_info *out)
{
    return nvmlDeviceGetComputeRunningProcesses_v3(device, count, out);
}

EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, struct field_value *values)
{
    nvmlReturn_t result = enter_gpu(device);

    leave(result);
    if (result != OK || values == NULL || count < 0)
        return result != OK ? result : INVALID_ARGUMENT;
    for (int i = 0; i < count; i++) {
        values[i].value.ull = 0;
        values[i].value_type = 1; /* unsigned int */
        values[i].timestamp = (long long)time(NULL) * 1000000;
        values[i].latency_us = 0;
        values[i].result = values[i].field == FIELD_RECOVERY_ACTION
                               ? gpu_uint(device, "recovery_action", &values[i].value.ui)
                               : NOT_SUPPORTED;
    }
    return OK;
}
