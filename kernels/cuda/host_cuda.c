/* The host words over the CUDA runtime, which is linked statically: a program that holds this file
 * starts on a machine without a driver, where dev_count says what is missing. */
#include "kernels/cuda/host.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/limits.h"
#include "base/mem.h"
#include "kernels/cuda/launch_rule.h"

struct dev_stream {
    cudaStream_t raw;
};

struct dev_event {
    cudaEvent_t raw;
};

struct dev_graph {
    cudaGraphExec_t raw;
    uint32_t launch_n;
};

/* The first failure, of whichever thread: who claims it writes the text, then says that it is
 * there.
 */
static struct {
    bool is_claimed;
    bool has_failed;
    char text[ERR_TEXT_BYTES];
} dev;

static _Thread_local uint32_t dev_used; /* index + 1 of the device the thread uses; 0 = none yet */

#define KERNELS_MAX 64 /* kernels that are ever launched, all types of them */

/* What was asked of CUDA about a kernel, by its address. Only the rank's thread launches (before it
 * there is one, the one that loads weights). */
static struct {
    struct {
        const void *kernel;
        size_t smem; /* dynamic bytes that its launches may have by now */
        bool may_overlap;
    } of[KERNELS_MAX];
    uint32_t n;
} kernels;

void dev_note(cudaError_t code, const char *what);
cudaStream_t dev_stream_raw(struct dev_stream *stream);
bool dev_prepare_launch(const void *kernel, const char *name, size_t smem);

void dev_note(cudaError_t code, const char *what)
{
    if (code != cudaSuccess && !__atomic_exchange_n(&dev.is_claimed, true, __ATOMIC_RELAXED)) {
        snprintf(dev.text, sizeof dev.text, "%s: %s (%s)", what, cudaGetErrorString(code),
                 cudaGetErrorName(code));
        __atomic_store_n(&dev.has_failed, true, __ATOMIC_RELEASE);
    }
}

/* `rc` while nothing has failed. */
static int dev_or_failure(int rc)
{
    return __atomic_load_n(&dev.has_failed, __ATOMIC_ACQUIRE) ? ERR_DEVICE_FAILURE : rc;
}

cudaStream_t dev_stream_raw(struct dev_stream *stream)
{
    return stream ? stream->raw : NULL;
}

/* The kernel's record, made at its first launch. */
static uint32_t kernel_find(const void *kernel, const char *name)
{
    struct cudaFuncAttributes attributes = {0};
    int device = 0;
    int major = 0;
    uint32_t i = 0;
    while (i < kernels.n && kernels.of[i].kernel != kernel) {
        i++;
    }
    if (i == kernels.n) {
        ASSERT_CMP(i, <, KERNELS_MAX);
        dev_note(cudaFuncGetAttributes(&attributes, kernel), name);
        dev_note(cudaGetDevice(&device), name);
        dev_note(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), name);
        kernels.of[i].kernel = kernel;
        kernels.of[i].smem = launch_shared_free(attributes.sharedSizeBytes);
        kernels.of[i].may_overlap = launch_may_overlap(major, attributes.ptxVersion);
        kernels.n++;
    }
    return i;
}

bool dev_prepare_launch(const void *kernel, const char *name, size_t smem)
{
    uint32_t i = kernel_find(kernel, name);
    if (smem > kernels.of[i].smem) {
        dev_note(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem),
            name);
        kernels.of[i].smem = smem;
    }
    return kernels.of[i].may_overlap;
}

const char *dev_failure(void)
{
    return dev_or_failure(0) ? dev.text : "";
}

static int dev_failed(struct err *err, int code, cudaError_t rc, const char *what)
{
    cudaGetLastError(); /* not sticky unless the device is lost, which every later call says */
    return err_set(err, code, "%s: %s (%s)", what, cudaGetErrorString(rc), cudaGetErrorName(rc));
}

void dev_fail(const char *why)
{
    if (!__atomic_exchange_n(&dev.is_claimed, true, __ATOMIC_RELAXED)) {
        snprintf(dev.text, sizeof dev.text, "%s", why);
        __atomic_store_n(&dev.has_failed, true, __ATOMIC_RELEASE);
    }
}

int dev_cublaslt(const char *symbol, void **out, struct err *err)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    static void *library; /* stays open as long as the process */
    for (size_t i = 0; i < ARRAY_N(names) && !library; i++) {
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    if (!library) {
        return err_set(err, ERR_NO_DEVICE, "%s is not found", names[0]);
    }
    *out = dlsym(library, symbol);
    return *out ? 0 : err_set(err, ERR_NO_DEVICE, "%s has no %s", names[0], symbol);
}

void *dev_stream_native(struct dev_stream *stream)
{
    return stream->raw;
}

int dev_count(uint32_t *out_n, struct err *err)
{
    /* All kernels are loaded with the context, so that what is free afterwards stays free. */
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    int n = 0; /* cudaGetDeviceCount leaves it alone when there is no driver */
    int driver = 0;
    int runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaError_t rc = cudaGetDeviceCount(&n);
    if (rc == cudaErrorInsufficientDriver && driver == 0) {
        return err_set(err, ERR_NO_DEVICE, "no NVIDIA driver is loaded on this machine");
    }
    if (rc == cudaErrorInsufficientDriver) {
        return err_set(
            err, ERR_NO_DEVICE,
            "the NVIDIA driver is too old: it serves CUDA %d.%d, this program needs %d.%d",
            driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    if (rc == cudaErrorNoDevice || (rc == cudaSuccess && n == 0)) {
        return err_set(err, ERR_NO_DEVICE, "the NVIDIA driver finds no device");
    }
    if (rc != cudaSuccess) {
        return dev_failed(err, ERR_NO_DEVICE, rc, "could not count the NVIDIA devices");
    }
    *out_n = (uint32_t)n;
    return 0;
}

int dev_use(uint32_t index, struct err *err)
{
    if (dev_used == index + 1) {
        return 0;
    }
    cudaError_t rc = cudaSetDevice((int)index);
    if (rc != cudaSuccess) {
        return dev_failed(err, ERR_NO_DEVICE, rc, "could not open the NVIDIA device");
    }
    dev_used = index + 1;
    return 0;
}

int dev_describe(uint32_t index, struct dev_info *out, struct err *err)
{
    struct cudaDeviceProp prop;
    int driver = 0;
    int clock = 0;
    int memory_clock = 0;
    int used = dev_use(index, err); /* free memory is asked of the device in use */
    if (used) {
        return used;
    }
    cudaError_t rc = cudaGetDeviceProperties(&prop, (int)index);
    if (rc != cudaSuccess) {
        return dev_failed(err, ERR_NO_DEVICE, rc, "could not describe the NVIDIA device");
    }
    cudaDriverGetVersion(&driver);
    cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, (int)index);
    cudaDeviceGetAttribute(&memory_clock, cudaDevAttrMemoryClockRate, (int)index);
    *out = (struct dev_info){
        .major = (uint32_t)prop.major,
        .minor = (uint32_t)prop.minor,
        .sm_n = (uint32_t)prop.multiProcessorCount,
        .shared_per_block = prop.sharedMemPerBlockOptin,
        .memory_bytes = prop.totalGlobalMem,
        .driver_version = (uint32_t)driver,
        .clock_khz = (uint32_t)clock,
        .memory_clock_khz = (uint32_t)memory_clock,
        .silence_ns = LIMIT_DEVICE_SILENCE_NS,
    };
    snprintf(out->name, sizeof out->name, "%s", prop.name);
    size_t total;
    rc = cudaMemGetInfo(&out->free_bytes, &total);
    return rc == cudaSuccess ? 0 : dev_failed(err, ERR_NO_DEVICE, rc, "could not ask for memory");
}

int dev_alloc(size_t bytes, void **out, struct err *err)
{
    size_t free_n = 0;
    size_t total = 0;
    cudaError_t rc = cudaMalloc(out, MAX(bytes, 1));
    if (rc == cudaSuccess) {
        return 0;
    }
    cudaGetLastError();
    cudaMemGetInfo(&free_n, &total);
    return err_set(err, ERR_NO_MEMORY, "could not reserve %zu bytes of GPU memory: %zu are free",
                   bytes, free_n);
}

void dev_free(void *p)
{
    dev_note(cudaFree(p), "cudaFree");
}

int dev_alloc_pinned(size_t bytes, bool is_mapped, void **out, struct err *err)
{
    cudaError_t rc =
        cudaHostAlloc(out, MAX(bytes, 1), is_mapped ? cudaHostAllocMapped : cudaHostAllocDefault);
    return rc == cudaSuccess ? 0 : dev_failed(err, ERR_NO_MEMORY, rc, "could not pin host memory");
}

void dev_free_pinned(void *p)
{
    dev_note(cudaFreeHost(p), "cudaFreeHost");
}

void dev_discard(void *p, size_t bytes)
{
    (void)p; /* only the emulation can show who still reads it */
    (void)bytes;
}

struct dev_stream *dev_stream_new(void)
{
    struct dev_stream *stream = mem_zalloc(sizeof *stream);
    dev_note(cudaStreamCreateWithFlags(&stream->raw, cudaStreamNonBlocking), "cudaStreamCreate");
    return stream;
}

void dev_stream_free(struct dev_stream *stream)
{
    if (stream) {
        dev_note(cudaStreamDestroy(stream->raw), "cudaStreamDestroy");
        mem_free(stream);
    }
}

int dev_stream_query(struct dev_stream *stream)
{
    cudaError_t rc = cudaStreamQuery(stream->raw);
    if (rc == cudaErrorNotReady) {
        cudaGetLastError();
        return dev_or_failure(1);
    }
    dev_note(rc, "the device");
    return dev_or_failure(0);
}

int dev_stream_sync(struct dev_stream *stream)
{
    dev_note(cudaStreamSynchronize(stream->raw), "the device");
    return dev_or_failure(0);
}

static void dev_copy_kind(struct dev_stream *stream, void *to, const void *from, size_t bytes,
                          enum cudaMemcpyKind kind)
{
    if (bytes > 0) {
        dev_note(cudaMemcpyAsync(to, from, bytes, kind, stream->raw), "cudaMemcpyAsync");
    }
}

void dev_copy_in(struct dev_stream *stream, void *to_dev, const void *from, size_t bytes)
{
    dev_copy_kind(stream, to_dev, from, bytes, cudaMemcpyHostToDevice);
}

void dev_copy_out(struct dev_stream *stream, void *to, const void *from_dev, size_t bytes)
{
    dev_copy_kind(stream, to, from_dev, bytes, cudaMemcpyDeviceToHost);
}

void dev_copy(struct dev_stream *stream, void *to_dev, const void *from_dev, size_t bytes)
{
    dev_copy_kind(stream, to_dev, from_dev, bytes, cudaMemcpyDeviceToDevice);
}

void dev_fill(struct dev_stream *stream, void *to_dev, uint8_t value, size_t bytes)
{
    if (bytes > 0) {
        dev_note(cudaMemsetAsync(to_dev, value, bytes, stream->raw), "cudaMemsetAsync");
    }
}

struct dev_event *dev_event_new(void)
{
    struct dev_event *event = mem_zalloc(sizeof *event);
    dev_note(cudaEventCreateWithFlags(&event->raw, cudaEventDisableTiming), "cudaEventCreate");
    return event;
}

void dev_event_free(struct dev_event *event)
{
    if (event) {
        dev_note(cudaEventDestroy(event->raw), "cudaEventDestroy");
        mem_free(event);
    }
}

void dev_event_record(struct dev_event *event, struct dev_stream *stream)
{
    dev_note(cudaEventRecord(event->raw, stream->raw), "cudaEventRecord");
}

void dev_event_wait(struct dev_stream *stream, struct dev_event *event)
{
    dev_note(cudaStreamWaitEvent(stream->raw, event->raw, 0), "cudaStreamWaitEvent");
}

int dev_event_query(struct dev_event *event)
{
    cudaError_t rc = cudaEventQuery(event->raw);
    if (rc == cudaErrorNotReady) {
        cudaGetLastError();
        return dev_or_failure(1);
    }
    dev_note(rc, "the device");
    return dev_or_failure(0);
}

void dev_graph_begin(struct dev_stream *stream)
{
    dev_note(cudaStreamBeginCapture(stream->raw, cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
}

static uint32_t dev_kernel_nodes(cudaGraph_t graph)
{
    size_t node_n = 0;
    uint32_t kernel_n = 0;
    if (cudaGraphGetNodes(graph, NULL, &node_n) != cudaSuccess) {
        return 0;
    }
    cudaGraphNode_t *nodes = mem_zalloc_n(node_n + 1, sizeof(cudaGraphNode_t));
    if (cudaGraphGetNodes(graph, nodes, &node_n) == cudaSuccess) {
        for (size_t i = 0; i < node_n; i++) {
            enum cudaGraphNodeType type;
            if (cudaGraphNodeGetType(nodes[i], &type) == cudaSuccess &&
                type == cudaGraphNodeTypeKernel) {
                kernel_n++;
            }
        }
    }
    mem_free(nodes);
    return kernel_n;
}

int dev_graph_end(struct dev_stream *stream, struct dev_graph **out, struct err *err)
{
    cudaGraph_t graph = NULL;
    struct dev_graph *exec = mem_zalloc(sizeof *exec);
    cudaError_t rc = cudaStreamEndCapture(stream->raw, &graph);
    if (rc == cudaSuccess) {
        exec->launch_n = dev_kernel_nodes(graph);
        rc = cudaGraphInstantiate(&exec->raw, graph, 0);
        cudaGraphDestroy(graph);
    }
    if (rc != cudaSuccess) {
        mem_free(exec);
        return dev_failed(err, ERR_DEVICE_FAILURE, rc, "could not capture a graph");
    }
    *out = exec;
    return 0;
}

void dev_graph_launch(struct dev_stream *stream, struct dev_graph *graph)
{
    dev_note(cudaGraphLaunch(graph->raw, stream->raw), "cudaGraphLaunch");
}

uint32_t dev_graph_launch_n(const struct dev_graph *graph)
{
    return graph->launch_n;
}

void dev_graph_free(struct dev_graph *graph)
{
    if (graph) {
        dev_note(cudaGraphExecDestroy(graph->raw), "cudaGraphExecDestroy");
        mem_free(graph);
    }
}
