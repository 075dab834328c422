/* An example of a board: the Verilated machine, whose memory is this program's.
 *
 *     cc -std=c99 verilated.c shiftadd*.c MACHINE.so -o run
 *     ./run IMAGE INPUT... OUTPUT...
 *
 * Each input is a file of float32, one image after the other; each output becomes one. MACHINE.so
 * is what vta_ext.rtl.build.build gives. Prints the cycles of each launch. */
#include <stdio.h>
#include <stdlib.h>

#include "shiftadd.h"

typedef struct simulation simulation;
simulation *simulation_new(void);
void simulation_free(simulation *machine);
void simulation_memory(simulation *machine, uint8_t *memory, uint64_t size);
void simulation_write(simulation *machine, uint32_t number, uint32_t value);
uint32_t simulation_read(simulation *machine, uint32_t number);
int64_t simulation_run(simulation *machine, uint64_t most);
uint64_t simulation_outside(simulation *machine);

/* The arena does not begin at address 0, where a mistake would go unnoticed. */
#define ADDRESS 0x10000u
/* Cycles between two looks at the clock, and in how many of them a launch must be done. */
#define SLICE 4096u
#define LIMIT 1000000000u
#define TENSORS 16

typedef struct {
    simulation *machine;
    uint32_t cycles;
} verilated;

static uint32_t read_register(void *context, uint32_t number) {
    return simulation_read(((verilated *)context)->machine, number);
}

static void write_register(void *context, uint32_t number, uint32_t value) {
    simulation_write(((verilated *)context)->machine, number, value);
}

/* Time passes in the simulation only as it is run. */
static uint32_t read_clock(void *context) {
    verilated *board = context;
    simulation_run(board->machine, SLICE);
    board->cycles += SLICE;
    return board->cycles;
}

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void require(const char *what, shiftadd_status status) {
    if (status != SHIFTADD_OK) fail(what, shiftadd_status_name(status));
}

static void *allocated(size_t bytes) {
    void *found = malloc(bytes ? bytes : 1);
    if (!found) fail("memory", "there is not enough");
    return found;
}

static FILE *opened(const char *path, const char *mode) {
    FILE *file = fopen(path, mode);
    if (!file) fail(path, "cannot be opened");
    return file;
}

static uint8_t *contents(const char *path, size_t *bytes) {
    FILE *file = opened(path, "rb");
    uint8_t *data;
    long end;
    if (fseek(file, 0, SEEK_END) || (end = ftell(file)) < 0 || fseek(file, 0, SEEK_SET)) {
        fail(path, "cannot be read");
    }
    *bytes = (size_t)end;
    data = allocated(*bytes);
    if (fread(data, 1, *bytes, file) != *bytes) fail(path, "cannot be read");
    fclose(file);
    return data;
}

/* The next image of an input, to the network; 0 at the end of the file. */
static int feed(const shiftadd_network *network, uint32_t input, uint32_t image, FILE *file) {
    shiftadd_tensor tensor;
    float *values;
    size_t count;
    require("input", shiftadd_input(network, input, &tensor));
    values = allocated(tensor.elements * sizeof *values);
    count = fread(values, sizeof *values, tensor.elements, file);
    if (count == tensor.elements) {
        require("write", shiftadd_write(network, input, image, values, count));
    } else if (count) {
        fail("input", "the file ends within an image");
    }
    free(values);
    return count != 0;
}

static void take(const shiftadd_network *network, uint32_t output, uint32_t image, FILE *file) {
    shiftadd_tensor tensor;
    float *values;
    require("output", shiftadd_output(network, output, &tensor));
    values = allocated(tensor.elements * sizeof *values);
    require("read", shiftadd_read(network, output, image, values, tensor.elements));
    if (fwrite(values, sizeof *values, tensor.elements, file) != tensor.elements) {
        fail("output", "cannot be written");
    }
    free(values);
}

/* As many images as the machine takes at once; 0 where there is none left. */
static int launch(const shiftadd_network *network, FILE **inputs, FILE **outputs) {
    const uint32_t given = shiftadd_inputs(network);
    uint32_t image, number, images = 0;
    for (image = 0; image < shiftadd_batch(network) && image == images; ++image) {
        uint32_t fed = 0;
        for (number = 0; number < given; ++number) {
            if (feed(network, number, image, inputs[number])) ++fed;
        }
        if (fed && fed < given) fail("input", "one file has fewer images than another");
        if (fed) images = image + 1;
    }
    if (!images) return 0;
    require("run", shiftadd_run(network, LIMIT));
    printf("%lu cycles\n", (unsigned long)shiftadd_cycles(network));
    for (image = 0; image < images; ++image) {
        for (number = 0; number < shiftadd_outputs(network); ++number) {
            take(network, number, image, outputs[number]);
        }
    }
    return 1;
}

/* A file for each input, then one for each output. */
static void open_files(const shiftadd_network *network, char **paths, uint32_t count,
                       FILE **inputs, FILE **outputs) {
    const uint32_t given = shiftadd_inputs(network), made = shiftadd_outputs(network);
    uint32_t number;
    if (given > TENSORS || made > TENSORS || count != given + made) {
        fail("usage", "give a file for each input, then one for each output");
    }
    for (number = 0; number < given; ++number) inputs[number] = opened(paths[number], "rb");
    for (number = 0; number < made; ++number) outputs[number] = opened(paths[given + number], "wb");
}

int main(int count, char **arguments) {
    FILE *inputs[TENSORS], *outputs[TENSORS];
    verilated state = {NULL, 0};
    const shiftadd_board board = {&state, read_register, write_register, NULL, read_clock};
    shiftadd_network network;
    uint32_t number, arena;
    uint8_t *image, *memory;
    size_t bytes;
    if (count < 2) fail("usage", "run IMAGE INPUT... OUTPUT...");
    image = contents(arguments[1], &bytes);
    require(arguments[1], shiftadd_arena(image, bytes, &arena));
    memory = allocated((size_t)ADDRESS + arena);
    state.machine = simulation_new();
    simulation_memory(state.machine, memory, (uint64_t)ADDRESS + arena);
    require(arguments[1],
            shiftadd_open(&network, &board, image, bytes, memory + ADDRESS, arena, ADDRESS));
    open_files(&network, arguments + 2, (uint32_t)count - 2, inputs, outputs);
    while (launch(&network, inputs, outputs)) {
    }
    for (number = 0; number < shiftadd_outputs(&network); ++number) {
        if (fclose(outputs[number])) fail("output", "cannot be written");
    }
    if (simulation_outside(state.machine)) fail("run", "the machine left its memory");
    simulation_free(state.machine);
    free(memory);
    free(image);
    return 0;
}
