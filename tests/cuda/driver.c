/* NVIDIA's driver and runtime libraries as TVM's runtime sees them, with one GPU of compute
   capability 8.6 that runs nothing: it tells what it is given. Device memory is the host's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef DRIVER
int cuModuleLoadData(void** module, const void* image) {
  printf("module %.*s\n", (int)strcspn(strstr(image, ".target") + 8, "\n"), strstr(image, ".target") + 8);
  *module = (void*)image;
  return 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  char entry[512];
  snprintf(entry, sizeof entry, ".entry %s(", name);
  *function = module;
  return strstr(module, entry) ? 0 : 500;
}
int cuLaunchKernelEx(const unsigned* config, void* function, void** arguments, void** extra) {
  printf("launch %u\n", config[0] * config[1] * config[2]);
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
int cudaMalloc(void** memory, size_t size) { *memory = calloc(size ? size : 1, 1); return 0; }
int cudaMallocHost(void** memory, size_t size) { return cudaMalloc(memory, size); }
int cudaFree(void* memory) { free(memory); return 0; }
int cudaFreeHost(void* memory) { return cudaFree(memory); }
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
