/* Runs a program image on the accelerator, without an operating system: docs/bare-metal.md.
 *
 * C99, freestanding: it allocates nothing and uses no floating-point operation or register; float
 * is only the type of values that are written and read, IEEE binary32, as bits in memory. All state is in the shiftadd_network.
 */
#ifndef SHIFTADD_H
#define SHIFTADD_H

#include <stddef.h>
#include <stdint.h>

#include "shiftadd_layout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a call returns: name and meaning. */
#define SHIFTADD_STATUSES(X)                                                          \
    X(OK, "done")                                                                     \
    X(BAD_ARGUMENT, "a null pointer, or a number or count that is not the network's") \
    X(NOT_AN_IMAGE, "the bytes do not begin as a program image does")                 \
    X(WRONG_VERSION, "an image of another version of the format")                     \
    X(TRUNCATED, "fewer bytes than the image says it has")                            \
    X(WRONG_CRC, "the image was altered")                                             \
    X(BAD_LAYOUT, "something in the image does not fit the image or the arena")       \
    X(BAD_ARENA, "the arena is too small, or not where the machine can have it")      \
    X(NO_MACHINE, "the registers are not those of the machine")                       \
    X(WRONG_MACHINE, "the image is for a machine of another configuration")           \
    X(BUSY, "the machine is still running; reset it")                                 \
    X(TIMEOUT, "the machine did not finish in time; reset it")                        \
    X(MEMORY_REFUSED, "memory refused an access of the machine")

#define SHIFTADD_STATUS_ENTRY(name, meaning) SHIFTADD_##name,
typedef enum { SHIFTADD_STATUSES(SHIFTADD_STATUS_ENTRY) SHIFTADD_STATUS_COUNT } shiftadd_status;
#undef SHIFTADD_STATUS_ENTRY

/* What the board gives. Every function gets `context` as its first argument. */
typedef struct {
    void *context;
    /* Registers by number (shiftadd_layout.h); a byte address is four times that. */
    uint32_t (*read)(void *context, uint32_t number);
    void (*write)(void *context, uint32_t number, uint32_t value);
    /* Makes what the processor wrote to these bytes visible to the machine (to_machine 1), or what
     * the machine wrote to them visible to the processor (0): cleans, or drops, what caches have of
     * them, and waits until it is done. NULL where memory is coherent and accesses in order. */
    void (*barrier)(void *context, void *start, size_t bytes, int to_machine);
    /* A clock in ticks of any length, which may wrap. */
    uint32_t (*clock)(void *context);
} shiftadd_board;

/* A network that is loaded; its members are the runtime's own. */
typedef struct {
    const shiftadd_board *board;
    const uint8_t *image;
    uint8_t *arena;
    uint32_t address;
} shiftadd_network;

/* An input or output: elements of one image, the type of its integers (SHIFTADD_TYPE_...), which
 * stand for integer * 2^-exponent; of an output that is the first channel's. */
typedef struct {
    uint32_t elements;
    uint32_t type;
    int32_t exponent;
} shiftadd_tensor;

/* Checks an image and says how much memory its arena needs. */
shiftadd_status shiftadd_arena(const void *image, size_t bytes, uint32_t *arena_bytes);

/* Checks an image and copies it to the arena.
 *
 * image: `bytes` bytes at least, of any alignment, which must not change as long as the network is
 * in use. arena: memory that processor and machine share, for this network alone; `address` is the
 * machine's address of it, a multiple of SHIFTADD_ALIGNMENT. board: kept. */
shiftadd_status shiftadd_open(shiftadd_network *network, const shiftadd_board *board,
                              const void *image, size_t bytes, void *arena, size_t arena_bytes,
                              uint32_t address);

/* How many inputs and outputs there are, and images a launch. */
uint32_t shiftadd_inputs(const shiftadd_network *network);
uint32_t shiftadd_outputs(const shiftadd_network *network);
uint32_t shiftadd_batch(const shiftadd_network *network);
shiftadd_status shiftadd_input(const shiftadd_network *network, uint32_t input,
                               shiftadd_tensor *tensor);
shiftadd_status shiftadd_output(const shiftadd_network *network, uint32_t output,
                                shiftadd_tensor *tensor);

/* Writes one image of an input in the network's own layout; count: its elements. The second one
 * takes integers that were quantised already, int8_t or uint8_t as the input is stored. */
shiftadd_status shiftadd_write(const shiftadd_network *network, uint32_t input, uint32_t image,
                               const float *values, size_t count);
shiftadd_status shiftadd_write_stored(const shiftadd_network *network, uint32_t input,
                                      uint32_t image, const void *values, size_t count);

/* Runs the program once and waits, for `limit` ticks of the clock at most. */
shiftadd_status shiftadd_run(const shiftadd_network *network, uint32_t limit);

/* Cycles of the last run. */
uint32_t shiftadd_cycles(const shiftadd_network *network);

/* Reads one image of an output in the network's own layout; count: its elements. The second one
 * gives the integers, not scaled; channels may have different scales. */
shiftadd_status shiftadd_read(const shiftadd_network *network, uint32_t output, uint32_t image,
                              float *values, size_t count);
shiftadd_status shiftadd_read_stored(const shiftadd_network *network, uint32_t output,
                                     uint32_t image, int32_t *values, size_t count);

/* The name of a status, such as "WRONG_CRC", and what it means. */
const char *shiftadd_status_name(shiftadd_status status);
const char *shiftadd_status_meaning(shiftadd_status status);

#ifdef __cplusplus
}
#endif

#endif
