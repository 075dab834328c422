// One block of CUDA threads after another, on the CPU: the language that TVM's kernels are written in.
//
// The threads of a block are coroutines. One runs until it waits at a barrier or for the other
// threads of its warp, then the next one in an order that can be chosen: a kernel without a
// barrier that it needs gives other results in some orders. Shared memory holds garbage at first.
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>
#include <ucontext.h>

#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
// Of all kernels together, so that it can be filled with garbage and addressed by 32 bits.
#define __shared__ static __attribute__((section("shared_memory"), aligned(16)))

struct uint3 { unsigned x, y, z; };
static uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace machine {

constexpr int kWarp = 32, kStack = 128 << 10;
enum class Waits { nothing, warp, block };

struct Copy { void* to; const void* from; unsigned bytes, used; };

struct Thread {
  ucontext_t context;
  jmp_buf here;
  uint3 index;
  bool started = false, done = true;
  Waits waits = Waits::nothing;
  unsigned exchanges = 0;
  std::vector<Copy> copies;                // not yet committed
  std::vector<std::vector<Copy>> groups;   // committed, not yet waited for
  std::vector<char> stack;
};

// What the threads of a warp hand to each other; the next exchange may begin while some still read.
struct Warp { uint64_t slots[2][kWarp][12]; };

static std::vector<Thread> threads;
static std::vector<Warp> warps;
static jmp_buf scheduler;
static Thread* current = nullptr;
static int lane = 0, count = 0;
static void (*body)(void*) = nullptr;
static void* arguments = nullptr;
static bool coroutines = false, early = false;
static const char* wrong = nullptr;  // the first thing that a check has found
static void complain(const char* reason) { if (!wrong) wrong = reason; }

static char dynamic_shared[232448]
    __attribute__((section("shared_memory"), aligned(1024), used));
extern "C" char __start_shared_memory[], __stop_shared_memory[];

// A thread's life: the kernel once for each block.
static void live() {
  for (;;) {
    body(arguments);
    current->done = true;
    if (!_setjmp(current->here)) _longjmp(scheduler, 1);
  }
}

static void resume(Thread& thread) {
  current = &thread;
  threadIdx = thread.index;
  lane = int(&thread - threads.data()) % kWarp;
  if (_setjmp(scheduler)) return;
  if (thread.started) _longjmp(thread.here, 1);
  thread.started = true;
  getcontext(&thread.context);
  thread.stack.resize(kStack);
  thread.context.uc_stack.ss_sp = thread.stack.data();
  thread.context.uc_stack.ss_size = kStack;
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, live, 0);
  setcontext(&thread.context);
}

static void wait(Waits what) {
  if (!coroutines) {
    fprintf(stderr, "a kernel waits that was taken for one that does not\n");
    abort();
  }
  current->waits = what;
  if (!_setjmp(current->here)) _longjmp(scheduler, 1);
}

// Every thread of the warp gives `words` words, and sees those of all.
static uint64_t (*exchange(const uint64_t* words, int size))[12] {
  Warp& warp = warps[(current - threads.data()) / kWarp];
  auto slots = warp.slots[current->exchanges++ & 1];
  memcpy(slots[lane], words, size * sizeof(uint64_t));
  wait(Waits::warp);
  return slots;
}

static bool release(int first, int last, Waits what) {
  bool any = false;
  for (int i = first; i < last; i++) {
    if (threads[i].done) continue;
    if (threads[i].waits != what) return false;
    any = true;
  }
  for (int i = first; i < last; i++) threads[i].waits = Waits::nothing;
  return any;
}

// Returns what went wrong, or null.
static const char* run_block(const std::vector<int>& order) {
  memset(__start_shared_memory, 0xA5, __stop_shared_memory - __start_shared_memory);
  for (int i = 0; i < count; i++) {
    Thread& thread = threads[i];
    thread.done = false;
    thread.waits = Waits::nothing;
    thread.copies.clear();
    thread.groups.clear();
  }
  for (;;) {
    bool left = false, released = false;
    for (int i : order) {
      if (!threads[i].done && threads[i].waits == Waits::nothing) resume(threads[i]);
      left |= !threads[i].done;
    }
    if (!left) return nullptr;
    for (int first = 0; first < count; first += kWarp)
      released |= release(first, first + kWarp < count ? first + kWarp : count, Waits::warp);
    if (!released && !release(0, count, Waits::block))
      return "threads wait for each other at different places";
  }
}

struct Launch { uint3 grid{1, 1, 1}, block{1, 1, 1}; int64_t shared = 0; };

static std::vector<int> thread_order() {
  const char* chosen = getenv("CUDA_MACHINE_ORDER");
  bool backward = chosen && !strcmp(chosen, "backward"), random = chosen && !strcmp(chosen, "random");
  std::vector<int> order(count);
  for (int i = 0; i < count; i++) order[i] = backward ? count - 1 - i : i;
  uint32_t state = 1;
  for (int i = count - 1; random && i > 0; i--) {
    state = state * 1664525 + 1013904223;
    std::swap(order[i], order[(state >> 8) % (i + 1)]);
  }
  return order;
}

static int fail(const char* kernel, const char* reason) {
  const char* parts[] = {kernel, ": ", reason};
  TVMFFIErrorSetRaisedFromCStrParts("RuntimeError", parts, 3);
  return -1;
}

static int run_grid(const char* name, const Launch& launch, bool waits, void (*kernel)(void*), void* args) {
  count = launch.block.x * launch.block.y * launch.block.z;
  if (count < 1 || count > 1024) return fail(name, "not 1 to 1024 threads in a block");
  if (launch.shared > int64_t(sizeof dynamic_shared)) return fail(name, "too much shared memory");
  wrong = nullptr, body = kernel, arguments = args, coroutines = waits;
  gridDim = launch.grid, blockDim = launch.block;
  if (threads.size() < size_t(count)) threads.resize(count), warps.resize((count + kWarp - 1) / kWarp);
  for (int i = 0; i < count; i++) {
    unsigned x = launch.block.x, y = launch.block.y;
    threads[i].index = {i % x, i / x % y, i / (x * y)};
  }
  const char* copies = getenv("CUDA_MACHINE_COPIES");
  early = copies && !strcmp(copies, "early");
  std::vector<int> order = thread_order();
  for (unsigned z = 0; z < gridDim.z; z++)
    for (unsigned y = 0; y < gridDim.y; y++)
      for (unsigned x = 0; x < gridDim.x; x++) {
        blockIdx = {x, y, z};
        if (waits) {
          if (const char* wrong = run_block(order)) {
            threads.clear();  // they are in the middle of the kernel
            return fail(name, wrong);
          }
          continue;
        }
        for (int i : order) {
          threadIdx = threads[i].index;
          kernel(args);
        }
      }
  return wrong ? fail(name, wrong) : 0;
}

// A tensor may end where memory does: what a kernel touches behind it is an error of the launch.
static sigjmp_buf fault;

static int run(const char* name, const Launch& launch, bool waits, void (*kernel)(void*), void* args) {
  static char handlers_stack[64 << 10];
  static struct sigaction before;
  static stack_t stack_before;
  stack_t stack{};
  stack.ss_sp = handlers_stack, stack.ss_size = sizeof handlers_stack;
  struct sigaction action{};
  action.sa_handler = [](int) { siglongjmp(fault, 1); };
  action.sa_flags = SA_ONSTACK;
  sigaltstack(&stack, &stack_before);
  sigaction(SIGSEGV, &action, &before);
  int result;
  if (!sigsetjmp(fault, 1)) {
    result = run_grid(name, launch, waits, kernel, args);
  } else {
    threads.clear();
    result = fail(name, wrong ? wrong : "memory is touched that is not a tensor's");
  }
  sigaction(SIGSEGV, &before, nullptr);
  sigaltstack(&stack_before, nullptr);
  return result;
}

// The types of a kernel's parameters tell how to take them from TVM's arguments.
template <class T>
static T value(const TVMFFIAny& any) {
  if constexpr (std::is_pointer_v<T>) return static_cast<T>(any.v_ptr);
  else if constexpr (std::is_floating_point_v<T>) return static_cast<T>(any.v_float64);
  else return static_cast<T>(any.v_int64);
}

template <class... P, size_t... I>
static void invoke(void (*kernel)(P...), const TVMFFIAny* args, std::index_sequence<I...>) {
  kernel(value<P>(args[I])...);
}

template <class... P>
static void invoke(void (*kernel)(P...), const TVMFFIAny* args) {
  invoke(kernel, args, std::index_sequence_for<P...>());
}

}  // namespace machine

// What the compiler's checks call, in place of the library that would write to the console.
#define CHECK_FAILED extern "C" __attribute__((visibility("hidden"))) void
CHECK_FAILED __ubsan_handle_out_of_bounds(void*, void*) { machine::complain("an index lies beyond the end of an array"); }
CHECK_FAILED __ubsan_handle_type_mismatch_v1(const void* data, const char* address) {
  struct Check { const char* file; uint32_t line, column; void* type; unsigned char alignment, kind; };
  bool aligned = uintptr_t(address) % (uintptr_t(1) << static_cast<const Check*>(data)->alignment) == 0;
  machine::complain(aligned ? "an access reaches beyond the end of an array" : "an access is not aligned");
}

#include "language.h"
#include "assembly.h"
