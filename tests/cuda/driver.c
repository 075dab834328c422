/* NVIDIA's driver and runtime libraries as TVM's runtime sees them, with one GPU of compute
   capability 8.6 that runs nothing: it tells what it is given, and refuses launches that a GPU would.
   Device memory is the host's. DRIVER_FAILS in the environment names what is to fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fails(const char* what) {
  const char* chosen = getenv("DRIVER_FAILS");
  return chosen && !strcmp(chosen, what);
}

#ifdef DRIVER
static int told(const char* wrong) { printf("wrong %s\n", wrong); return 1; }
int cuDriverGetVersion(int* version) { *version = fails("version") ? 12040 : 13000; return 0; }
int cuModuleLoadData(void** module, const void* image) {
  if (fails("module")) return 222;
  printf("module %.*s\n", (int)strcspn(strstr(image, ".target") + 8, "\n"), strstr(image, ".target") + 8);
  *module = (void*)image;
  return 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  char entry[512];
  snprintf(entry, sizeof entry, ".entry %s(", name);
  *function = strstr(module, entry);
  return *function ? 0 : 500;
}
int cuLaunchKernelEx(const unsigned* config, void* function, void** arguments, void** extra) {
  if (fails("launch")) return 1;
  printf("launch %u\n", config[0] * config[1] * config[2]);
  /* Grid, block, dynamic shared memory. */
  for (int i = 0; i < 6; i++)
    if (!config[i]) return told("extent of zero");
  if (config[0] >> 31 || config[1] > 65535 || config[2] > 65535) return told("grid");
  if (config[3] * config[4] * config[5] > 1024 || config[5] > 64) return told("block");
  if (config[6] > 48 << 10) return told("shared memory");
  /* As many parameters as the PTX has, of which addresses are those of device memory. */
  const char* place = function;
  const char* end = strchr(place, ')');
  int (*owns)(const char*) = dlsym(RTLD_DEFAULT, "device_owns");
  for (int i = 0; (place = strstr(place, ".param .")) && place < end; i++, place++) {
    size_t value = strncmp(place + 8, "u64", 3) ? 0 : *(size_t*)arguments[i];
    if (value >> 32 && !owns((const char*)value)) return told("address"); /* else a number */
  }
  return 0;
}
#define NOTHING(name) int name() { return 0; }
NOTHING(cuDeviceGetName) NOTHING(cuFuncSetAttribute) NOTHING(cuGetErrorName) NOTHING(cuGetErrorString)
NOTHING(cuModuleUnload) NOTHING(cuTensorMapEncodeTiled)
#else
int cudaDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 6 : 1024; /* major, minor */
  return 0;
}
int cudaGetDeviceCount(int* count) { *count = 1; return 0; }
int cudaGetDevice(int* device) { *device = 0; return 0; }
struct Piece { char* start; size_t size; struct Piece* next; };
static struct Piece* pieces;
int device_owns(const char* address) {
  for (struct Piece* piece = pieces; piece; piece = piece->next)
    if (piece->start && address >= piece->start && address < piece->start + piece->size) return 1;
  return 0;
}
int cudaMallocHost(void** memory, size_t size) { *memory = calloc(size ? size : 1, 1); return 0; }
int cudaMalloc(void** memory, size_t size) {
  if (fails("memory")) return 2;
  cudaMallocHost(memory, size);
  struct Piece* piece = malloc(sizeof *piece);
  *piece = (struct Piece){*memory, size ? size : 1, pieces};
  pieces = piece;
  return 0;
}
int cudaFreeHost(void* memory) { free(memory); return 0; }
int cudaFree(void* memory) {
  for (struct Piece* piece = pieces; piece; piece = piece->next)
    if (piece->start == memory) piece->start = NULL;
  return cudaFreeHost(memory);
}
int cudaMemcpyAsync(void* to, const void* from, size_t size, int kind, void* stream) {
  memcpy(to, from, size);
  return 0;
}
const char* cudaGetErrorName(int error) { return "error"; }
const char* cudaGetErrorString(int error) { return "error"; }
#define NOTHING(name) int name() { return 0; }
NOTHING(cudaEventCreate) NOTHING(cudaEventDestroy) NOTHING(cudaEventElapsedTime) NOTHING(cudaEventRecord)
NOTHING(cudaEventSynchronize) NOTHING(cudaGetDeviceProperties) NOTHING(cudaGetLastError)
NOTHING(cudaGraphDestroy) NOTHING(cudaGraphExecDestroy) NOTHING(cudaGraphInstantiate)
NOTHING(cudaGraphLaunch) NOTHING(cudaMemcpyPeerAsync) NOTHING(cudaMemGetInfo)
NOTHING(cudaPeekAtLastError) NOTHING(cudaSetDevice) NOTHING(cudaStreamBeginCapture)
NOTHING(cudaStreamCreate) NOTHING(cudaStreamCreateWithFlags) NOTHING(cudaStreamDestroy)
NOTHING(cudaStreamEndCapture) NOTHING(cudaStreamSynchronize) NOTHING(cudaStreamWaitEvent)
#endif
