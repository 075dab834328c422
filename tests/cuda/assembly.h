// The PTX instructions of the kernels, in place of the functions shiftadd_asm_* around them.
//
// Registers of a warp are laid out as PTX's manual has it for mma.m16n8k32 and ldmatrix.m8n8.
#pragma once

static inline int shiftadd_asm_dp4a_us(unsigned a, int b, int c) { return int(c + uint32_t(dot_bytes<uint8_t, int8_t>(a, b))); }
static inline int shiftadd_asm_absdiff4(unsigned a, unsigned b, int c) { return int(c + __vsadu4(a, b)); }


// As __byte_perm; bit 3 of a selector has the byte's sign repeated instead of the byte.
static inline unsigned shiftadd_asm_prmt(unsigned x, unsigned y, unsigned selector) {
  unsigned result = __byte_perm(x, y, selector);
  for (int i = 0; i < 4; i++)
    if (selector >> 4 * i & 8) result = (result & ~(255u << 8 * i)) | (result >> 8 * i & 128 ? 255u : 0u) << 8 * i;
  return result;
}

// A compiler for GPUs drops what lies beyond the end of an array, and its registers with it. How much
// is left behind a pointer is known where the functions below are part of the kernel.
#define INSTRUCTION static inline __attribute__((always_inline))
#if __GNUC__ >= 12
#define LEFT(pointer) __builtin_dynamic_object_size(pointer, 0)
#else
#define LEFT(pointer) __builtin_object_size(pointer, 0)
#endif
#define NEEDS(pointer, bytes) \
  if (LEFT(pointer) < size_t(bytes)) machine::complain("an instruction reaches beyond the end of an array")
// Rows of matrices and copies are sixteen bytes at a multiple of as many.
#define ALIGNED(pointer) \
  if (uintptr_t(pointer) % 16) machine::complain("an instruction's address is not a multiple of 16")

// d (16x8, int32) += a (16x32 bytes of type A) * b (32x8 signed bytes).
template <class A>
static void multiply_matrices(int* d, const unsigned* a, const unsigned* b) {
  uint64_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  auto all = machine::exchange(mine, 6);
  int group = machine::lane / 4, pair = machine::lane % 4 * 2;
  for (int i = 0; i < 4; i++) {
    int row = group + i / 2 * 8, column = pair + i % 2;
    for (int word = 0; word < 8; word++) {
      unsigned x = unsigned(all[row % 8 * 4 + word % 4][row / 8 + word / 4 * 2]);
      unsigned w = unsigned(all[column * 4 + word % 4][4 + word / 4]);
      d[i] += int(dot_bytes<A, int8_t>(x, w));
    }
  }
}
INSTRUCTION void shiftadd_asm_mma_us(int* d, const unsigned* a, const unsigned* b) {
  NEEDS(d, 16); NEEDS(a, 16); NEEDS(b, 8);
  multiply_matrices<uint8_t>(d, a, b);
}
INSTRUCTION void shiftadd_asm_mma_ss(int* d, const unsigned* a, const unsigned* b) {
  NEEDS(d, 16); NEEDS(a, 16); NEEDS(b, 8);
  multiply_matrices<int8_t>(d, a, b);
}

// Lane 8 m + r gives the address of row r of matrix m; each lane gets a word of each matrix.
INSTRUCTION void shiftadd_asm_ldmatrix_x4(unsigned* registers, const void* row) {
  NEEDS(registers, 16); NEEDS(row, 16); ALIGNED(row);
  uint64_t mine = (uint64_t)row;
  auto all = machine::exchange(&mine, 1);
  for (int m = 0; m < 4; m++)
    memcpy(registers + m, (const char*)all[8 * m + machine::lane / 4][0] + machine::lane % 4 * 4, 4);
}

static inline void make_copy(const machine::Copy& copy) {
  memset(copy.to, 0, copy.bytes);
  memcpy(copy.to, copy.from, copy.used);
}

// Copies are made as late as may be, when they are waited for, or as early, at once: who reads too early
// finds what was there before, or who still wants that finds the new.
INSTRUCTION void shiftadd_asm_cp_async16(void* to, const void* from, int used) {
  NEEDS(to, 16); ALIGNED(to); ALIGNED(from);
  machine::Copy copy{to, from, 16, unsigned(used)};
  if (machine::early) make_copy(copy);
  else machine::current->copies.push_back(copy);
}
static inline void shiftadd_asm_cp_commit() {
  machine::current->groups.push_back(std::move(machine::current->copies));
  machine::current->copies.clear();
}
template <int left>
static void shiftadd_asm_cp_wait() {
  auto& groups = machine::current->groups;
  while (groups.size() > size_t(left)) {
    for (const machine::Copy& copy : groups.front()) make_copy(copy);
    groups.erase(groups.begin());
  }
}
