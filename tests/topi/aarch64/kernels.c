/* Calls kernels that TVM compiled, without TVM's runtime: kernels INPUT OUTPUT.
 *
 * INPUT holds for each kernel of kernels.inc the number of its tensors, and these: code, bits and
 * number of dimensions (int32), the shape (int64), the elements. OUTPUT gets the elements of the
 * last one of each kernel, its result. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tvm/ffi/c_api.h>

enum { MOST_TENSORS = 8, MOST_DIMENSIONS = 6, TASKS = 3, ALIGNMENT = 64 };

/* What compiled kernels ask of TVM's runtime. */
typedef struct {
  void *sync_handle;
  int32_t num_task;
} Environment;
typedef int (*Task)(int, Environment *, void *);

static int launch(Task task, void *closure, int tasks) {
  Environment environment = {NULL, tasks ? tasks : TASKS};
  for (int i = 0; i < environment.num_task; ++i)
    if (task(i, &environment, closure)) return -1;
  return 0;
}

static void *allocate(int device, int number, uint64_t bytes, int code, int bits) {
  (void)device, (void)number, (void)code, (void)bits;
  return aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}

static int release(int device, int number, void *memory) {
  (void)device, (void)number;
  free(memory);
  return 0;
}

int (*__TVMBackendParallelLaunch)(Task, void *, int) = launch;
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = release;

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i)
    if (parts[i]) fputs(parts[i], stderr);
  fputs("\n", stderr);
}

#define KERNEL(name) int name(void *, const TVMFFIAny *, int32_t, TVMFFIAny *);
#include "kernels.inc"
#undef KERNEL
#define KERNEL(name) name,
static const TVMFFISafeCallType KERNELS[] = {
#include "kernels.inc"
};

static void get(void *to, size_t bytes, FILE *file) {
  if (fread(to, 1, bytes, file) != bytes) {
    fputs("the input ends too early\n", stderr);
    exit(2);
  }
}

static size_t bytes_of(const DLTensor *tensor) {
  size_t bytes = tensor->dtype.bits / 8;
  for (int32_t i = 0; i < tensor->ndim; ++i) bytes *= (size_t)tensor->shape[i];
  return bytes;
}

static void get_tensor(DLTensor *tensor, int64_t *shape, FILE *file) {
  int32_t head[3];
  get(head, sizeof head, file);
  memset(tensor, 0, sizeof *tensor);
  tensor->device.device_type = kDLCPU;
  tensor->dtype.code = (uint8_t)head[0];
  tensor->dtype.bits = (uint8_t)head[1];
  tensor->dtype.lanes = 1;
  tensor->ndim = head[2];
  tensor->shape = shape;
  get(shape, sizeof *shape * (size_t)head[2], file);
  tensor->data = allocate(0, 0, bytes_of(tensor), 0, 0);
  get(tensor->data, bytes_of(tensor), file);
}

int main(int count, char **names) {
  FILE *input = count == 3 ? fopen(names[1], "rb") : NULL;
  FILE *output = count == 3 ? fopen(names[2], "wb") : NULL;
  if (!input || !output) return 2;
  for (size_t k = 0; k < sizeof KERNELS / sizeof *KERNELS; ++k) {
    DLTensor tensors[MOST_TENSORS];
    int64_t shapes[MOST_TENSORS][MOST_DIMENSIONS];
    TVMFFIAny arguments[MOST_TENSORS], result = {.type_index = kTVMFFINone};
    int32_t number;
    get(&number, sizeof number, input);
    for (int32_t i = 0; i < number; ++i) {
      get_tensor(&tensors[i], shapes[i], input);
      arguments[i] = (TVMFFIAny){.type_index = kTVMFFIDLTensorPtr, .v_ptr = &tensors[i]};
    }
    if (KERNELS[k](NULL, arguments, number, &result)) return 1;
    const DLTensor *last = &tensors[number - 1];
    if (fwrite(last->data, 1, bytes_of(last), output) != bytes_of(last)) return 2;
    for (int32_t i = 0; i < number; ++i) free(tensors[i].data);
  }
  return fclose(output) ? 2 : 0;
}
