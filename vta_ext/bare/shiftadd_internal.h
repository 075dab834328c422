/* Between the runtime's files; not for programs that use it. */
#ifndef SHIFTADD_INTERNAL_H
#define SHIFTADD_INTERNAL_H

#include "shiftadd.h"

/* The records behind the header, in their order: shiftadd_layout.h. */
typedef enum {
    SHIFTADD_SEGMENT,
    SHIFTADD_INPUT,
    SHIFTADD_PORT,
    SHIFTADD_OUTPUT,
    SHIFTADD_NUMBER,
    SHIFTADD_RECORDS
} shiftadd_record_kind;

/* Of a map of a program, [blocks, height, width, batch, block] in lanes from `start` of the arena
 * up; and where element (y, x, c) of it, or of the source of its pixels, is in what a caller has.
 */
typedef struct {
    uint32_t start, height, width, channels, lane_bytes;
    uint32_t stride_y, stride_x, stride_c;
} shiftadd_map;

/* An input's map: a window over a source [source_height, source_width, source_channels]. */
typedef struct {
    shiftadd_map map;
    uint32_t input, source_height, source_width, source_channels;
    uint32_t step_y, step_x, taps, tap_count;
} shiftadd_port;

/* The words of an image are little-endian at any alignment, whatever the processor's are. */
static inline uint32_t shiftadd_word_at(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* A word of a record: the header is one, which an image begins with. */
static inline uint32_t shiftadd_word(const uint8_t *record, uint32_t number) {
    return shiftadd_word_at(record + SHIFTADD_WORD_BYTES * number);
}

static inline int32_t shiftadd_signed(uint32_t bits) {
    return bits >> 31 ? -(int32_t)(~bits) - 1 : (int32_t)bits;
}

/* shiftadd_image.c */
shiftadd_status shiftadd_check_image(const uint8_t *image, size_t bytes);
uint32_t shiftadd_count(const uint8_t *image, shiftadd_record_kind kind);
const uint8_t *shiftadd_record(const uint8_t *image, shiftadd_record_kind kind, uint32_t number);
shiftadd_port shiftadd_port_of(const uint8_t *image, uint32_t number);
shiftadd_map shiftadd_map_of(const uint8_t *image, uint32_t output);

/* shiftadd_numbers.c, as docs/integer-specification.md says, on the bits of floats,
 * which so never are in a register of floats: rint(value * 2^exponent), ties to even, in
 * the range of the type, and NaN is 0; and float(value), rounded to nearest, ties to even, times
 * 2^-exponent. */
int32_t shiftadd_quantize(uint32_t bits, int32_t exponent, uint32_t type);
uint32_t shiftadd_dequantize(int32_t value, int32_t exponent);

#endif
