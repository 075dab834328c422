#include <string.h>

#include "shiftadd_internal.h"

shiftadd_status shiftadd_arena(const void *image, size_t bytes, uint32_t *arena_bytes) {
    shiftadd_status status;
    if (!image || !arena_bytes) return SHIFTADD_BAD_ARGUMENT;
    status = shiftadd_check_image(image, bytes);
    if (status == SHIFTADD_OK) *arena_bytes = shiftadd_word(image, SHIFTADD_HEADER_ARENA_BYTES);
    return status;
}

static shiftadd_status check_arena(const uint8_t *image, size_t bytes, uint32_t address) {
    const uint32_t needed = shiftadd_word(image, SHIFTADD_HEADER_ARENA_BYTES);
    if (bytes < needed || address % SHIFTADD_ALIGNMENT != 0 || needed - 1 > UINT32_MAX - address) {
        return SHIFTADD_BAD_ARENA;
    }
    return SHIFTADD_OK;
}

static uint32_t control(const shiftadd_board *board) {
    return board->read(board->context, SHIFTADD_REGISTER_CONTROL);
}

static int is_running(const shiftadd_board *board) { return (control(board) & 1u) != 0; }

static shiftadd_status check_machine(const uint8_t *image, const shiftadd_board *board) {
    if (board->read(board->context, SHIFTADD_REGISTER_IDENTITY) != SHIFTADD_IDENTITY) {
        return SHIFTADD_NO_MACHINE;
    }
    if (board->read(board->context, SHIFTADD_REGISTER_HASH_LOW) !=
            shiftadd_word(image, SHIFTADD_HEADER_HASH_LOW) ||
        board->read(board->context, SHIFTADD_REGISTER_HASH_HIGH) !=
            shiftadd_word(image, SHIFTADD_HEADER_HASH_HIGH)) {
        return SHIFTADD_WRONG_MACHINE;
    }
    /* One that still runs may write to the arena. */
    return is_running(board) ? SHIFTADD_BUSY : SHIFTADD_OK;
}

static void exchange(const shiftadd_network *network, uint32_t start, uint32_t bytes,
                     int to_machine) {
    const shiftadd_board *board = network->board;
    if (board->barrier) board->barrier(board->context, network->arena + start, bytes, to_machine);
}

shiftadd_status shiftadd_open(shiftadd_network *network, const shiftadd_board *board,
                              const void *image, size_t bytes, void *arena, size_t arena_bytes,
                              uint32_t address) {
    const uint8_t *const words = image;
    shiftadd_status status;
    uint32_t i;
    if (!network || !image || !arena || !board || !board->read || !board->write || !board->clock) {
        return SHIFTADD_BAD_ARGUMENT;
    }
    memset(network, 0, sizeof *network);
    status = shiftadd_check_image(words, bytes);
    if (status == SHIFTADD_OK) status = check_arena(words, arena_bytes, address);
    if (status == SHIFTADD_OK) status = check_machine(words, board);
    if (status != SHIFTADD_OK) return status;

    network->board = board;
    network->image = words;
    network->arena = arena;
    network->address = address;
    /* Lanes beyond a map's channels, and images that nobody writes, are 0. */
    memset(arena, 0, shiftadd_word(words, SHIFTADD_HEADER_ARENA_BYTES));
    for (i = 0; i < shiftadd_count(words, SHIFTADD_SEGMENT); ++i) {
        const uint8_t *segment = shiftadd_record(words, SHIFTADD_SEGMENT, i);
        memcpy(network->arena + shiftadd_word(segment, SHIFTADD_SEGMENT_OFFSET),
               words + shiftadd_word(segment, SHIFTADD_SEGMENT_FROM),
               shiftadd_word(segment, SHIFTADD_SEGMENT_BYTES));
    }
    exchange(network, 0, shiftadd_word(words, SHIFTADD_HEADER_ARENA_BYTES), 1);
    return SHIFTADD_OK;
}

/* ---- Maps in the arena ---- */

/* Goes through the channels of one position of a map, for one image. `at` counts bytes of the
 * arena; beyond the last channel it points nowhere. */
typedef struct {
    size_t at, plane, block, lane, lane_bytes;
} cursor;

static cursor cursor_at(const uint8_t *image, const shiftadd_map *map, uint32_t number, uint32_t y,
                        uint32_t x) {
    const size_t batch = shiftadd_word(image, SHIFTADD_HEADER_BATCH);
    cursor c;
    c.block = shiftadd_word(image, SHIFTADD_HEADER_BLOCK);
    c.lane = 0;
    c.lane_bytes = map->lane_bytes;
    c.plane = (size_t)map->height * map->width * batch * c.block * c.lane_bytes;
    c.at = map->start + (((size_t)y * map->width + x) * batch + number) * c.block * c.lane_bytes;
    return c;
}

static void advance(cursor *c) {
    c->at += c->lane_bytes;
    if (++c->lane == c->block) {
        c->lane = 0;
        c->at += c->plane - c->block * c->lane_bytes;
    }
}

static uint32_t map_bytes(const uint8_t *image, const shiftadd_map *map) {
    const cursor c = cursor_at(image, map, 0, 0, 0);
    return (uint32_t)(((map->channels - 1) / c.block + 1) * c.plane);
}

/* ---- Inputs ---- */

/* What a caller writes: floats, or else the bytes of integers. */
typedef struct {
    const float *floats;
    const uint8_t *bytes;
    int32_t exponent;
    uint32_t type;
} source;

static uint8_t stored(const source *from, size_t at) {
    uint32_t bits;
    if (!from->floats) return from->bytes[at];
    memcpy(&bits, &from->floats[at], sizeof bits);
    return (uint8_t)shiftadd_quantize(bits, from->exponent, from->type);
}

/* All that the window reads at one position, tap by tap; 0 outside of the input. */
static void write_position(const shiftadd_network *network, const shiftadd_port *port,
                           const source *from, cursor to, uint32_t y, uint32_t x) {
    const uint8_t *taps = shiftadd_record(network->image, SHIFTADD_NUMBER, port->taps);
    uint32_t tap, c;
    for (tap = 0; tap < port->tap_count; ++tap) {
        const int64_t row = (int64_t)y * port->step_y + shiftadd_signed(shiftadd_word(taps, 2 * tap));
        const int64_t column =
            (int64_t)x * port->step_x + shiftadd_signed(shiftadd_word(taps, 2 * tap + 1));
        const int inside = row >= 0 && row < port->source_height && column >= 0 &&
                           column < port->source_width;
        size_t at = 0;
        if (inside) at = (size_t)row * port->map.stride_y + (size_t)column * port->map.stride_x;
        for (c = 0; c < port->source_channels; ++c, at += port->map.stride_c, advance(&to)) {
            network->arena[to.at] = inside ? stored(from, at) : 0;
        }
    }
}

static void write_port(const shiftadd_network *network, const shiftadd_port *port,
                       const source *from, uint32_t image) {
    const shiftadd_map *map = &port->map;
    uint32_t y, x;
    for (y = 0; y < map->height; ++y) {
        for (x = 0; x < map->width; ++x) {
            write_position(network, port, from, cursor_at(network->image, map, image, y, x), y, x);
        }
    }
    exchange(network, map->start, map_bytes(network->image, map), 1);
}

static shiftadd_status write_input(const shiftadd_network *network, uint32_t input, uint32_t image,
                                   source from, size_t count) {
    shiftadd_tensor tensor;
    uint32_t i;
    if ((!from.floats && !from.bytes) || shiftadd_input(network, input, &tensor) != SHIFTADD_OK ||
        image >= shiftadd_batch(network) || count != tensor.elements) {
        return SHIFTADD_BAD_ARGUMENT;
    }
    from.type = tensor.type;
    from.exponent = tensor.exponent;
    for (i = 0; i < shiftadd_count(network->image, SHIFTADD_PORT); ++i) {
        const shiftadd_port port = shiftadd_port_of(network->image, i);
        if (port.input == input) write_port(network, &port, &from, image);
    }
    return SHIFTADD_OK;
}

shiftadd_status shiftadd_write(const shiftadd_network *network, uint32_t input, uint32_t image,
                               const float *values, size_t count) {
    source from = {0};
    from.floats = values;
    return write_input(network, input, image, from, count);
}

shiftadd_status shiftadd_write_stored(const shiftadd_network *network, uint32_t input,
                                      uint32_t image, const void *values, size_t count) {
    source from = {0};
    from.bytes = values;
    return write_input(network, input, image, from, count);
}

/* ---- Outputs ---- */

static int32_t value_at(const uint8_t *at, uint32_t type) {
    if (type == SHIFTADD_TYPE_INT32) return shiftadd_signed(shiftadd_word_at(at));
    return type == SHIFTADD_TYPE_INT8 && *at >= 128 ? (int32_t)*at - 256 : (int32_t)*at;
}

/* To floats, or else to integers. */
static shiftadd_status read_output(const shiftadd_network *network, uint32_t output, uint32_t image,
                                   float *floats, int32_t *integers, size_t count) {
    const uint8_t *record, *exponents;
    shiftadd_tensor tensor;
    shiftadd_map map;
    uint32_t y, x, c;
    if ((!floats && !integers) || shiftadd_output(network, output, &tensor) != SHIFTADD_OK ||
        image >= shiftadd_batch(network) || count != tensor.elements) {
        return SHIFTADD_BAD_ARGUMENT;
    }
    map = shiftadd_map_of(network->image, output);
    record = shiftadd_record(network->image, SHIFTADD_OUTPUT, output);
    exponents = shiftadd_record(network->image, SHIFTADD_NUMBER,
                                shiftadd_word(record, SHIFTADD_OUTPUT_EXPONENTS));
    exchange(network, map.start, map_bytes(network->image, &map), 0);
    for (y = 0; y < map.height; ++y) {
        for (x = 0; x < map.width; ++x) {
            cursor from = cursor_at(network->image, &map, image, y, x);
            size_t at = (size_t)y * map.stride_y + (size_t)x * map.stride_x;
            for (c = 0; c < map.channels; ++c, at += map.stride_c, advance(&from)) {
                const int32_t value = value_at(network->arena + from.at, tensor.type);
                if (floats) {
                    const uint32_t bits =
                        shiftadd_dequantize(value, shiftadd_signed(shiftadd_word(exponents, c)));
                    memcpy(&floats[at], &bits, sizeof bits);
                } else {
                    integers[at] = value;
                }
            }
        }
    }
    return SHIFTADD_OK;
}

shiftadd_status shiftadd_read(const shiftadd_network *network, uint32_t output, uint32_t image,
                              float *values, size_t count) {
    return read_output(network, output, image, values, NULL, count);
}

shiftadd_status shiftadd_read_stored(const shiftadd_network *network, uint32_t output,
                                     uint32_t image, int32_t *values, size_t count) {
    return read_output(network, output, image, NULL, values, count);
}

/* ---- The machine ---- */

shiftadd_status shiftadd_run(const shiftadd_network *network, uint32_t limit) {
    const shiftadd_board *board;
    const uint8_t *image;
    uint32_t start;
    if (!network || !network->board) return SHIFTADD_BAD_ARGUMENT;
    board = network->board;
    image = network->image;
    if (is_running(board)) return SHIFTADD_BUSY;
    board->write(board->context, SHIFTADD_REGISTER_ARENA, network->address);
    board->write(board->context, SHIFTADD_REGISTER_INSTRUCTIONS,
                 network->address + shiftadd_word(image, SHIFTADD_HEADER_INSTRUCTIONS));
    board->write(board->context, SHIFTADD_REGISTER_COUNT,
                 shiftadd_word(image, SHIFTADD_HEADER_INSTRUCTION_COUNT));
    start = board->clock(board->context);
    board->write(board->context, SHIFTADD_REGISTER_CONTROL, 1);
    while (is_running(board)) {
        if (board->clock(board->context) - start > limit) return SHIFTADD_TIMEOUT;
    }
    return control(board) >> SHIFTADD_FAILED_BIT & 1u ? SHIFTADD_MEMORY_REFUSED : SHIFTADD_OK;
}

uint32_t shiftadd_cycles(const shiftadd_network *network) {
    if (!network || !network->board) return 0;
    return network->board->read(network->board->context, SHIFTADD_REGISTER_CYCLES);
}

/* ---- What a network is ---- */

static uint32_t header_word(const shiftadd_network *network, uint32_t number) {
    return network && network->image ? shiftadd_word(network->image, number) : 0;
}

uint32_t shiftadd_inputs(const shiftadd_network *network) {
    return header_word(network, SHIFTADD_HEADER_INPUTS);
}

uint32_t shiftadd_outputs(const shiftadd_network *network) {
    return header_word(network, SHIFTADD_HEADER_OUTPUTS);
}

uint32_t shiftadd_batch(const shiftadd_network *network) {
    return header_word(network, SHIFTADD_HEADER_BATCH);
}

shiftadd_status shiftadd_input(const shiftadd_network *network, uint32_t input,
                               shiftadd_tensor *tensor) {
    const uint8_t *record;
    if (!tensor || input >= shiftadd_inputs(network)) return SHIFTADD_BAD_ARGUMENT;
    record = shiftadd_record(network->image, SHIFTADD_INPUT, input);
    tensor->elements = shiftadd_word(record, SHIFTADD_INPUT_ELEMENTS);
    tensor->type = shiftadd_word(record, SHIFTADD_INPUT_TYPE);
    tensor->exponent = shiftadd_signed(shiftadd_word(record, SHIFTADD_INPUT_EXPONENT));
    return SHIFTADD_OK;
}

shiftadd_status shiftadd_output(const shiftadd_network *network, uint32_t output,
                                shiftadd_tensor *tensor) {
    const uint8_t *record, *exponents;
    if (!tensor || output >= shiftadd_outputs(network)) return SHIFTADD_BAD_ARGUMENT;
    record = shiftadd_record(network->image, SHIFTADD_OUTPUT, output);
    exponents = shiftadd_record(network->image, SHIFTADD_NUMBER,
                                shiftadd_word(record, SHIFTADD_OUTPUT_EXPONENTS));
    tensor->elements = shiftadd_word(record, SHIFTADD_OUTPUT_ELEMENTS);
    tensor->type = shiftadd_word(record, SHIFTADD_OUTPUT_TYPE);
    tensor->exponent = shiftadd_signed(shiftadd_word(exponents, 0));
    return SHIFTADD_OK;
}
