#include "shiftadd_internal.h"

/* An image may hold anything. All that is used of it later is checked here, once, in 64 bits where
 * sums or products could leave 32. */

static const uint32_t record_bytes[SHIFTADD_RECORDS] = {
    SHIFTADD_WORD_BYTES * SHIFTADD_SEGMENT_WORDS, SHIFTADD_WORD_BYTES * SHIFTADD_INPUT_WORDS,
    SHIFTADD_WORD_BYTES * SHIFTADD_PORT_WORDS,    SHIFTADD_WORD_BYTES * SHIFTADD_OUTPUT_WORDS,
    SHIFTADD_WORD_BYTES * SHIFTADD_NUMBER_WORDS,
};

/* The header counts the records in their order. */
uint32_t shiftadd_count(const uint8_t *image, shiftadd_record_kind kind) {
    return shiftadd_word(image, SHIFTADD_HEADER_SEGMENTS + (uint32_t)kind);
}

/* Where the records of a kind begin; of SHIFTADD_RECORDS, where they all end. */
static uint64_t table_of(const uint8_t *image, shiftadd_record_kind kind) {
    uint64_t at = SHIFTADD_WORD_BYTES * SHIFTADD_HEADER_WORDS;
    unsigned before;
    for (before = 0; before < (unsigned)kind; ++before) {
        at += (uint64_t)shiftadd_count(image, (shiftadd_record_kind)before) * record_bytes[before];
    }
    return at;
}

const uint8_t *shiftadd_record(const uint8_t *image, shiftadd_record_kind kind, uint32_t number) {
    return image + (size_t)table_of(image, kind) + (size_t)number * record_bytes[kind];
}

shiftadd_port shiftadd_port_of(const uint8_t *image, uint32_t number) {
    const uint8_t *record = shiftadd_record(image, SHIFTADD_PORT, number);
    shiftadd_port port;
    port.input = shiftadd_word(record, SHIFTADD_PORT_INPUT);
    port.source_height = shiftadd_word(record, SHIFTADD_PORT_SOURCE_HEIGHT);
    port.source_width = shiftadd_word(record, SHIFTADD_PORT_SOURCE_WIDTH);
    port.source_channels = shiftadd_word(record, SHIFTADD_PORT_CHANNELS);
    port.step_y = shiftadd_word(record, SHIFTADD_PORT_STEP_Y);
    port.step_x = shiftadd_word(record, SHIFTADD_PORT_STEP_X);
    port.taps = shiftadd_word(record, SHIFTADD_PORT_TAPS);
    port.tap_count = shiftadd_word(record, SHIFTADD_PORT_TAP_COUNT);
    port.map.start = shiftadd_word(record, SHIFTADD_PORT_OFFSET);
    port.map.height = shiftadd_word(record, SHIFTADD_PORT_HEIGHT);
    port.map.width = shiftadd_word(record, SHIFTADD_PORT_WIDTH);
    port.map.channels = port.source_channels * port.tap_count;
    port.map.lane_bytes = 1;
    port.map.stride_y = shiftadd_word(record, SHIFTADD_PORT_STRIDE_Y);
    port.map.stride_x = shiftadd_word(record, SHIFTADD_PORT_STRIDE_X);
    port.map.stride_c = shiftadd_word(record, SHIFTADD_PORT_STRIDE_C);
    return port;
}

shiftadd_map shiftadd_map_of(const uint8_t *image, uint32_t output) {
    const uint8_t *record = shiftadd_record(image, SHIFTADD_OUTPUT, output);
    const uint32_t type = shiftadd_word(record, SHIFTADD_OUTPUT_TYPE);
    shiftadd_map map;
    map.start = shiftadd_word(record, SHIFTADD_OUTPUT_OFFSET);
    map.height = shiftadd_word(record, SHIFTADD_OUTPUT_HEIGHT);
    map.width = shiftadd_word(record, SHIFTADD_OUTPUT_WIDTH);
    map.channels = shiftadd_word(record, SHIFTADD_OUTPUT_CHANNELS);
    map.lane_bytes = type == SHIFTADD_TYPE_INT32 ? 4 : 1;
    map.stride_y = shiftadd_word(record, SHIFTADD_OUTPUT_STRIDE_Y);
    map.stride_x = shiftadd_word(record, SHIFTADD_OUTPUT_STRIDE_X);
    map.stride_c = shiftadd_word(record, SHIFTADD_OUTPUT_STRIDE_C);
    return map;
}

/* CRC-32 as zlib computes it, four bits at a time: a table of 64 bytes. */
static uint32_t crc32_of(const uint8_t *bytes, size_t count) {
    static const uint32_t step[16] = {
        0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u,
        0x4db26158u, 0x5005713cu, 0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu,
        0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu,
    };
    uint32_t crc = 0xffffffffu;
    size_t i;
    for (i = 0; i < count; ++i) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ step[crc & 15u];
        crc = crc >> 4 ^ step[crc & 15u];
    }
    return ~crc;
}

static int side_fits(uint32_t side) { return side >= 1 && side <= SHIFTADD_MAX_SIDE; }

static int exponent_fits(uint32_t bits) {
    const int32_t exponent = shiftadd_signed(bits);
    return exponent >= -SHIFTADD_MAX_EXPONENT && exponent <= SHIFTADD_MAX_EXPONENT;
}

static int tap_fits(uint32_t bits) {
    const int32_t tap = shiftadd_signed(bits);
    return tap >= -(int32_t)SHIFTADD_MAX_SIDE && tap <= (int32_t)SHIFTADD_MAX_SIDE;
}

/* Whether `count` numbers from `first` on are there, and each of them fits. */
static int numbers_fit(const uint8_t *image, uint32_t first, uint32_t count,
                       int (*fits)(uint32_t)) {
    const uint8_t *numbers = shiftadd_record(image, SHIFTADD_NUMBER, 0);
    uint32_t i;
    if ((uint64_t)first + count > shiftadd_count(image, SHIFTADD_NUMBER)) return 0;
    for (i = 0; i < count; ++i) {
        if (!fits(shiftadd_word(numbers, first + i))) return 0;
    }
    return 1;
}

/* Multiplies a size that is at most `most`; 0 where it is more afterwards. */
static int grow(uint64_t *size, uint32_t factor, uint32_t most) {
    *size *= factor;
    return *size <= most;
}

/* Whether a map whose sides fit lies in the arena. */
static int map_fits(const uint8_t *image, const shiftadd_map *map) {
    const uint32_t arena = shiftadd_word(image, SHIFTADD_HEADER_ARENA_BYTES);
    const uint32_t block = shiftadd_word(image, SHIFTADD_HEADER_BLOCK);
    uint64_t bytes = map->lane_bytes;
    return map->start <= arena && grow(&bytes, map->height, arena) &&
           grow(&bytes, map->width, arena) &&
           grow(&bytes, shiftadd_word(image, SHIFTADD_HEADER_BATCH), arena) &&
           grow(&bytes, block, arena) && grow(&bytes, (map->channels - 1) / block + 1, arena) &&
           bytes <= arena - map->start;
}

/* Whether the last pixel of a tensor of these sides is one of `elements`. */
static int strides_fit(const shiftadd_map *map, uint32_t height, uint32_t width, uint32_t channels,
                       uint32_t elements) {
    const uint64_t last = (uint64_t)(height - 1) * map->stride_y +
                          (uint64_t)(width - 1) * map->stride_x +
                          (uint64_t)(channels - 1) * map->stride_c;
    return last < elements;
}

static int segment_fits(const uint8_t *image, uint32_t number, uint32_t contents) {
    const uint8_t *record = shiftadd_record(image, SHIFTADD_SEGMENT, number);
    const uint64_t count = shiftadd_word(record, SHIFTADD_SEGMENT_BYTES);
    return shiftadd_word(record, SHIFTADD_SEGMENT_OFFSET) + count <=
               shiftadd_word(image, SHIFTADD_HEADER_ARENA_BYTES) &&
           shiftadd_word(record, SHIFTADD_SEGMENT_FROM) + count <= contents;
}

static int input_fits(const uint8_t *image, uint32_t number) {
    const uint8_t *record = shiftadd_record(image, SHIFTADD_INPUT, number);
    const uint32_t type = shiftadd_word(record, SHIFTADD_INPUT_TYPE);
    return (type == SHIFTADD_TYPE_INT8 || type == SHIFTADD_TYPE_UINT8) &&
           exponent_fits(shiftadd_word(record, SHIFTADD_INPUT_EXPONENT));
}

static int port_fits(const uint8_t *image, uint32_t number) {
    const shiftadd_port port = shiftadd_port_of(image, number);
    uint64_t channels = port.source_channels;
    uint32_t elements;
    if (port.input >= shiftadd_count(image, SHIFTADD_INPUT)) return 0;
    if (!side_fits(port.map.height) || !side_fits(port.map.width) ||
        !side_fits(port.source_height) || !side_fits(port.source_width) ||
        !side_fits(port.source_channels) || !side_fits(port.tap_count) ||
        !side_fits(port.step_y) || !side_fits(port.step_x)) {
        return 0;
    }
    if (!grow(&channels, port.tap_count, SHIFTADD_MAX_SIDE)) return 0;
    if (!numbers_fit(image, port.taps, 2 * port.tap_count, tap_fits)) return 0;
    elements = shiftadd_word(shiftadd_record(image, SHIFTADD_INPUT, port.input),
                             SHIFTADD_INPUT_ELEMENTS);
    return map_fits(image, &port.map) && strides_fit(&port.map, port.source_height,
                                                     port.source_width, port.source_channels,
                                                     elements);
}

static int output_fits(const uint8_t *image, uint32_t number) {
    const uint8_t *record = shiftadd_record(image, SHIFTADD_OUTPUT, number);
    const uint32_t type = shiftadd_word(record, SHIFTADD_OUTPUT_TYPE);
    const shiftadd_map map = shiftadd_map_of(image, number);
    if (type < SHIFTADD_TYPE_INT8 || type > SHIFTADD_TYPE_INT32) return 0;
    if (!side_fits(map.height) || !side_fits(map.width) || !side_fits(map.channels)) return 0;
    return map_fits(image, &map) &&
           numbers_fit(image, shiftadd_word(record, SHIFTADD_OUTPUT_EXPONENTS), map.channels,
                       exponent_fits) &&
           strides_fit(&map, map.height, map.width, map.channels,
                       shiftadd_word(record, SHIFTADD_OUTPUT_ELEMENTS));
}

/* Whether the machine finds its instructions in the arena. */
static int instructions_fit(const uint8_t *image) {
    const uint32_t at = shiftadd_word(image, SHIFTADD_HEADER_INSTRUCTIONS);
    const uint64_t count = shiftadd_word(image, SHIFTADD_HEADER_INSTRUCTION_COUNT);
    return count > 0 && at % SHIFTADD_ALIGNMENT == 0 &&
           at + count * SHIFTADD_INSTRUCTION_BYTES <=
               shiftadd_word(image, SHIFTADD_HEADER_ARENA_BYTES);
}

/* Of an image whose records are in it; contents: its bytes without the CRC. */
static int parts_fit(const uint8_t *image, uint32_t contents) {
    uint32_t i;
    if (shiftadd_word(image, SHIFTADD_HEADER_BATCH) == 0) return 0;
    if (shiftadd_word(image, SHIFTADD_HEADER_BLOCK) == 0 || !instructions_fit(image)) return 0;
    for (i = 0; i < shiftadd_count(image, SHIFTADD_SEGMENT); ++i) {
        if (!segment_fits(image, i, contents)) return 0;
    }
    for (i = 0; i < shiftadd_count(image, SHIFTADD_INPUT); ++i) {
        if (!input_fits(image, i)) return 0;
    }
    for (i = 0; i < shiftadd_count(image, SHIFTADD_PORT); ++i) {
        if (!port_fits(image, i)) return 0;
    }
    for (i = 0; i < shiftadd_count(image, SHIFTADD_OUTPUT); ++i) {
        if (!output_fits(image, i)) return 0;
    }
    return 1;
}

shiftadd_status shiftadd_check_image(const uint8_t *image, size_t bytes) {
    const uint32_t least = SHIFTADD_WORD_BYTES * SHIFTADD_HEADER_WORDS + SHIFTADD_CRC_BYTES;
    uint32_t size;
    if (bytes < least) return SHIFTADD_TRUNCATED;
    if (shiftadd_word(image, SHIFTADD_HEADER_MAGIC_LOW) != SHIFTADD_MAGIC_LOW ||
        shiftadd_word(image, SHIFTADD_HEADER_MAGIC_HIGH) != SHIFTADD_MAGIC_HIGH) {
        return SHIFTADD_NOT_AN_IMAGE;
    }
    if (shiftadd_word(image, SHIFTADD_HEADER_VERSION) != SHIFTADD_VERSION) {
        return SHIFTADD_WRONG_VERSION;
    }
    size = shiftadd_word(image, SHIFTADD_HEADER_BYTES);
    if (size > bytes) return SHIFTADD_TRUNCATED;
    if (size < least) return SHIFTADD_BAD_LAYOUT;
    size -= SHIFTADD_CRC_BYTES;
    if (crc32_of(image, size) != shiftadd_word_at(image + size)) return SHIFTADD_WRONG_CRC;
    if (table_of(image, SHIFTADD_RECORDS) > size) return SHIFTADD_BAD_LAYOUT;
    return parts_fit(image, size) ? SHIFTADD_OK : SHIFTADD_BAD_LAYOUT;
}
