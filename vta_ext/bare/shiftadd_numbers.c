#include "shiftadd_internal.h"

static int32_t limited(int32_t value, uint32_t type) {
    const int32_t least = type == SHIFTADD_TYPE_UINT8 ? 0 : -128;
    const int32_t most = type == SHIFTADD_TYPE_UINT8 ? 255 : 127;
    return value < least ? least : value > most ? most : value;
}

/* mantissa / 2^shift, ties to even; shift 1 to 24. */
static uint32_t rounded(uint32_t mantissa, uint32_t shift) {
    const uint32_t half = (uint32_t)1 << (shift - 1);
    const uint32_t rest = mantissa & (2 * half - 1);
    const uint32_t whole = mantissa >> shift;
    return whole + (rest > half || (rest == half && (whole & 1u)));
}

int32_t shiftadd_quantize(uint32_t bits, int32_t exponent, uint32_t type) {
    const uint32_t mantissa = bits & 0x7fffffu, field = bits >> 23 & 0xffu;
    int32_t scale, magnitude;
    /* NaN; and what is subnormal stays below a half whatever the exponent. */
    if ((field == 0xffu && mantissa != 0) || field == 0) return 0;
    /* |value * 2^exponent| is in [2^scale, 2^(scale + 1)). */
    scale = (int32_t)field - 127 + exponent;
    if (scale < -1) return 0;
    /* What is 256 or more is beyond both types; infinity is. */
    magnitude = scale >= 8 ? 256 : (int32_t)rounded(mantissa | 0x800000u, (uint32_t)(23 - scale));
    return limited(bits >> 31 ? -magnitude : magnitude, type);
}

uint32_t shiftadd_dequantize(int32_t value, int32_t exponent) {
    uint32_t magnitude = value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
    uint32_t bits, shift = 0;
    int32_t scale = 23;
    if (magnitude == 0) return 0;
    for (; magnitude < 0x800000u; magnitude <<= 1) --scale;
    while (magnitude >> shift >= 0x1000000u) ++shift;
    if (shift) magnitude = rounded(magnitude, shift);
    /* The mantissa's leading bit, 2^23, adds 1 to the exponent's field, and a carry 1 more. */
    bits = (uint32_t)(scale + (int32_t)shift - exponent + 126) << 23;
    bits += magnitude;
    return value < 0 ? bits | 0x80000000u : bits;
}
