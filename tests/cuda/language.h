// Types and functions of CUDA's language that TVM's kernels use.
#pragma once

#define VECTOR_TYPES(T, name)                                                             \
  struct __align__(2 * sizeof(T)) name##2 { T x, y; };                                    \
  struct name##3 { T x, y, z; };                                                          \
  struct __align__(sizeof(T) == 8 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; };        \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                       \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }               \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

VECTOR_TYPES(signed char, char)
VECTOR_TYPES(unsigned char, uchar)
VECTOR_TYPES(short, short)
VECTOR_TYPES(unsigned short, ushort)
VECTOR_TYPES(int, int)
VECTOR_TYPES(long long, longlong)
VECTOR_TYPES(unsigned long long, ulonglong)
VECTOR_TYPES(float, float)
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

template <class A, class B>
static inline std::common_type_t<A, B> max(A a, B b) { return a > b ? a : b; }
template <class A, class B>
static inline std::common_type_t<A, B> min(A a, B b) { return a < b ? a : b; }

template <class T>
static inline T __ldg(const T* p) { return *p; }
static inline int __float_as_int(float x) { int y; memcpy(&y, &x, 4); return y; }
static inline float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }

// Products of bytes, added to c: signed, unsigned, and of one kind each.
template <class A, class B>
static inline int64_t dot_bytes(uint32_t a, uint32_t b) {
  int64_t sum = 0;
  for (int i = 0; i < 4; i++) sum += int64_t(A(a >> 8 * i)) * B(b >> 8 * i);
  return sum;
}
static inline int __dp4a(int a, int b, int c) { return int(uint32_t(c) + uint32_t(dot_bytes<int8_t, int8_t>(a, b))); }
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) { return c + uint32_t(dot_bytes<uint8_t, uint8_t>(a, b)); }

// Four bytes chosen from eight; the fourth bit of a selector, which PTX's prmt knows, is cleared.
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  uint64_t bytes = uint64_t(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) result |= (unsigned(bytes >> 8 * (selector >> 4 * i & 7)) & 255) << 8 * i;
  return result;
}

// Operations on four bytes at once.
#define BYTES(name, T, expression)                                       \
  static inline unsigned name(unsigned x, unsigned y) {                  \
    unsigned result = 0;                                                 \
    for (int i = 0; i < 4; i++) {                                        \
      int a = T(x >> 8 * i), b = T(y >> 8 * i);                          \
      result |= (unsigned(expression) & 255) << 8 * i;                   \
    }                                                                    \
    return result;                                                       \
  }
BYTES(__vabsdiffu4, uint8_t, (a > b ? a - b : b - a))
BYTES(__vabsdiffs4, int8_t, (a > b ? a - b : b - a))
BYTES(__vminu4, uint8_t, min(a, b))
BYTES(__vmins4, int8_t, min(a, b))
BYTES(__vmaxu4, uint8_t, max(a, b))
BYTES(__vmaxs4, int8_t, max(a, b))
BYTES(__vadd4, uint8_t, a + b)
BYTES(__vsub4, uint8_t, a - b)
static inline unsigned __vsadu4(unsigned x, unsigned y) { return unsigned(dot_bytes<uint8_t, uint8_t>(__vabsdiffu4(x, y), 0x01010101)); }
static inline unsigned __sad(int a, int b, unsigned c) { return c + unsigned(a > b ? int64_t(a) - b : int64_t(b) - a); }

static inline void __syncthreads() { machine::wait(machine::Waits::block); }
static inline void __syncwarp(unsigned = ~0u) { machine::wait(machine::Waits::warp); }
static inline unsigned __activemask() { return ~0u; }

template <class T>
static T shuffled(T mine, int from) {
  uint64_t word = 0;
  memcpy(&word, &mine, sizeof mine);
  auto all = machine::exchange(&word, 1);
  T got;
  memcpy(&got, all[from & 31], sizeof got);
  return got;
}
template <class T>
static T __shfl_sync(unsigned, T mine, int from, int width = 32) {
  return shuffled(mine, (machine::lane & ~(width - 1)) | (from & (width - 1)));
}
template <class T>
static T __shfl_xor_sync(unsigned, T mine, int mask, int width = 32) {
  int from = machine::lane ^ mask;
  return shuffled(mine, from / width > machine::lane / width ? machine::lane : from);
}
template <class T>
static T __shfl_down_sync(unsigned, T mine, unsigned by, int width = 32) {
  int from = machine::lane + int(by);
  return shuffled(mine, from / width != machine::lane / width ? machine::lane : from);
}
template <class T>
static T __shfl_up_sync(unsigned, T mine, unsigned by, int width = 32) {
  int from = machine::lane - int(by);
  return shuffled(mine, from < (machine::lane & ~(width - 1)) ? machine::lane : from);
}
