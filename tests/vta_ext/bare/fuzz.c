/* Alters a program image again and again, and lets the runtime do what it accepts.
 *
 *     fuzz IMAGE ROUNDS SEED
 *
 * Image, arena, inputs and outputs are each allocated as large as the runtime is told, so that the
 * address sanitizer sees one byte too far. Prints how often each status came. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shiftadd.h"

#define MOST_ELEMENTS 100000u
#define MOST_ARENA (1u << 20)

static uint64_t state;

static uint32_t any(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 20) % below;
}

static uint32_t get(const uint8_t *image, uint32_t number) {
    return image[4 * number] | (uint32_t)image[4 * number + 1] << 8 |
           (uint32_t)image[4 * number + 2] << 16 | (uint32_t)image[4 * number + 3] << 24;
}

static void put(uint8_t *at, uint32_t value) {
    int i;
    for (i = 0; i < 4; ++i) at[i] = (uint8_t)(value >> 8 * i);
}

/* A bit at a time: the runtime's own is a table. */
static uint32_t crc(const uint8_t *bytes, size_t count) {
    uint32_t found = 0xffffffffu;
    size_t i;
    int bit;
    for (i = 0; i < count; ++i) {
        found ^= bytes[i];
        for (bit = 0; bit < 8; ++bit) found = found & 1 ? found >> 1 ^ 0xedb88320u : found >> 1;
    }
    return ~found;
}

/* A number that is at a limit, or next to what is there. */
static uint32_t chosen(uint32_t now, uint32_t size, uint32_t arena) {
    const uint32_t limits[] = {0, 1, 2, 255, 256, 65535, 65536, 65537, 0x7fffffff, 0x80000000u,
                               0xffffffffu, size, size - 4, size - 5, arena, arena - 1};
    switch (any(4)) {
        case 0: return limits[any(sizeof limits / sizeof *limits)];
        case 1: return now + any(5) - 2;
        case 2: return now << any(8) >> any(8);
        default: return any(4096);
    }
}

/* Words of the records, mostly; the size where it is cut; sometimes a CRC that is wrong. */
static size_t alter(uint8_t *image, size_t size) {
    const uint32_t words = SHIFTADD_HEADER_WORDS + SHIFTADD_SEGMENT_WORDS * get(image, SHIFTADD_HEADER_SEGMENTS) +
                           SHIFTADD_INPUT_WORDS * get(image, SHIFTADD_HEADER_INPUTS) +
                           SHIFTADD_PORT_WORDS * get(image, SHIFTADD_HEADER_PORTS) +
                           SHIFTADD_OUTPUT_WORDS * get(image, SHIFTADD_HEADER_OUTPUTS) +
                           SHIFTADD_NUMBER_WORDS * get(image, SHIFTADD_HEADER_NUMBERS);
    const uint32_t arena = get(image, SHIFTADD_HEADER_ARENA_BYTES);
    uint32_t changes = 1 + any(3);
    for (; changes; --changes) {
        const uint32_t number = any(any(4) ? words : (uint32_t)size / 4 - 1);
        put(image + 4 * number, chosen(get(image, number), (uint32_t)size, arena));
    }
    if (any(8) == 0) {
        size = 4 * any((uint32_t)size / 4);
        if (size >= 16) put(image + 4 * SHIFTADD_HEADER_BYTES, (uint32_t)size);
    }
    if (size >= 4 && any(16)) put(image + size - 4, crc(image, size - 4));
    return size;
}

static const uint8_t *current;
static uint64_t registers[SHIFTADD_REGISTER_COUNT + 1], memory_bytes;

static uint32_t read_register(void *context, uint32_t number) {
    (void)context;
    if (number == SHIFTADD_REGISTER_IDENTITY) return SHIFTADD_IDENTITY;
    if (number == SHIFTADD_REGISTER_HASH_LOW) return get(current, SHIFTADD_HEADER_HASH_LOW);
    if (number == SHIFTADD_REGISTER_HASH_HIGH) return get(current, SHIFTADD_HEADER_HASH_HIGH);
    return 0;
}

/* The machine would read its instructions. */
static void write_register(void *context, uint32_t number, uint32_t value) {
    (void)context;
    registers[number] = value;
    if (number == SHIFTADD_REGISTER_CONTROL &&
        (registers[SHIFTADD_REGISTER_INSTRUCTIONS] % SHIFTADD_ALIGNMENT != 0 ||
         registers[SHIFTADD_REGISTER_COUNT] == 0 ||
         registers[SHIFTADD_REGISTER_INSTRUCTIONS] +
                 registers[SHIFTADD_REGISTER_COUNT] * SHIFTADD_INSTRUCTION_BYTES >
             memory_bytes)) {
        abort();
    }
}

static uint32_t read_clock(void *context) {
    (void)context;
    return 0;
}

/* Reads and writes a byte at each end, as a cache would. */
static void barrier(void *context, void *start, size_t bytes, int to_machine) {
    volatile uint8_t *memory = start;
    (void)context;
    (void)to_machine;
    if (!bytes) abort();
    memory[0] = memory[0];
    memory[bytes - 1] = memory[bytes - 1];
}

static void require(shiftadd_status status) {
    if (status != SHIFTADD_OK) abort();
}

/* All that can be done with a network: of every image of a launch, floats and integers. */
static void use(const shiftadd_network *network) {
    const uint32_t batch = shiftadd_batch(network) < 3 ? shiftadd_batch(network) : 3;
    shiftadd_tensor tensor;
    uint32_t number, image;
    for (image = 0; image < batch; ++image) {
        for (number = 0; number < shiftadd_inputs(network) && number < 8; ++number) {
            void *values;
            require(shiftadd_input(network, number, &tensor));
            if (tensor.elements > MOST_ELEMENTS) continue;
            values = calloc(tensor.elements ? tensor.elements : 1, 4);
            require(shiftadd_write(network, number, image, values, tensor.elements));
            require(shiftadd_write_stored(network, number, image, values, tensor.elements));
            free(values);
        }
        for (number = 0; number < shiftadd_outputs(network) && number < 8; ++number) {
            void *values;
            require(shiftadd_output(network, number, &tensor));
            if (tensor.elements > MOST_ELEMENTS) continue;
            values = malloc(tensor.elements ? 4 * (size_t)tensor.elements : 1);
            require(shiftadd_read(network, number, image, values, tensor.elements));
            require(shiftadd_read_stored(network, number, image, values, tensor.elements));
            free(values);
        }
    }
    require(shiftadd_run(network, 1));
}

static shiftadd_status attempt(const uint8_t *original, size_t size) {
    const shiftadd_board board = {NULL, read_register, write_register, barrier, read_clock};
    uint8_t *scratch = malloc(size), *image, *arena;
    shiftadd_network network;
    shiftadd_status status;
    uint32_t needed = 0;
    memcpy(scratch, original, size);
    size = alter(scratch, size);
    image = malloc(size ? size : 1);
    memcpy(image, scratch, size);
    free(scratch);
    current = image;
    if (shiftadd_arena(image, size, &needed) != SHIFTADD_OK || needed > MOST_ARENA) needed = 512;
    arena = malloc(needed);
    memory_bytes = needed;
    status = shiftadd_open(&network, &board, image, size, arena, needed, 0);
    if (status == SHIFTADD_OK) use(&network);
    free(arena);
    free(image);
    return status;
}

int main(int count, char **arguments) {
    unsigned long found[SHIFTADD_STATUS_COUNT] = {0}, rounds, i;
    uint8_t *image = malloc(1 << 20);
    FILE *file = count == 4 ? fopen(arguments[1], "rb") : NULL;
    size_t size;
    if (!file) return 2;
    size = fread(image, 1, 1 << 20, file);
    fclose(file);
    rounds = strtoul(arguments[2], NULL, 10);
    state = strtoull(arguments[3], NULL, 10) * 2 + 1;
    for (i = 0; i < rounds; ++i) ++found[attempt(image, size)];
    for (i = 0; i < SHIFTADD_STATUS_COUNT; ++i) {
        printf("%s %lu\n", shiftadd_status_name((shiftadd_status)i), found[i]);
    }
    free(image);
    return 0;
}
