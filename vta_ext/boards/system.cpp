// Clock, serial line and SDRAM around a Verilated board, behind a C interface.

#include <cstdint>
#include <deque>
#include <memory>

#include "Vmachine.h"
#include "sdram.hpp"
#include "verilated.h"

namespace {

// Cycles without a byte after which nothing more comes of those before: more than any command but
// a run takes between its last byte and the first one of its answer.
constexpr uint64_t kQuiet = 4096;

// Bits of a byte on the line: start, eight of data, stop.
constexpr uint32_t kBits = 10;

struct Board {
    VerilatedContext context;
    std::unique_ptr<Vmachine> top;
    uint32_t divisor;
    std::deque<uint8_t> waiting, found;
    // The byte on its way to the board: its bits, how many are left, cycles of the first one.
    uint32_t sending = 0, sending_left = 0, sending_timer = 0;
    // The one on its way to the host.
    uint32_t coming = 0, coming_left = 0, coming_timer = 0;
    uint64_t now = 0, busy_until = kQuiet;
#ifdef VTA_SDRAM
    SdramChip chip{VTA_SDRAM};
#endif

    void edge() {
#ifdef VTA_SDRAM
        top->sdram___05Fdq_i = chip.step(top->sdram___05Fras, top->sdram___05Fcas, top->sdram___05Fwe,
                                         top->sdram___05Fba, top->sdram___05Fa,
                                         top->sdram___05Fdqm, top->sdram___05Fdq_o);
#endif
        top->clk = 1;
        top->eval();
        top->clk = 0;
        top->eval();
        ++now;
    }

    void send() {
        if (sending_left == 0) {
            top->rx = 1;
            if (waiting.empty()) return;
            sending = waiting.front() << 1 | 1u << (kBits - 1);
            waiting.pop_front();
            sending_left = kBits;
            sending_timer = divisor;
        }
        top->rx = sending & 1;
        busy_until = now + kQuiet;
        if (--sending_timer == 0) {
            sending >>= 1;
            --sending_left;
            sending_timer = divisor;
        }
    }

    void listen() {
        if (coming_left == 0) {
            if (top->tx) return;
            coming_left = kBits;
            coming_timer = divisor / 2;
        }
        busy_until = now + kQuiet;
        if (--coming_timer != 0) return;
        coming_timer = divisor;
        coming = coming >> 1 | static_cast<uint32_t>(top->tx) << (kBits - 1);
        if (--coming_left == 0 && top->tx) found.push_back(coming >> 1 & 0xff);
    }
};

}  // namespace

extern "C" {

// A board whose line has `divisor` cycles a bit, `cycles` after its clock was stable.
Board* board_new(uint32_t divisor, uint64_t cycles) {
    auto* b = new Board;
    b->top = std::make_unique<Vmachine>(&b->context);
    b->divisor = divisor;
    b->top->rx = 1;
    b->top->rst = 1;
    b->top->clk = 0;
    b->top->eval();
    for (int i = 0; i < 2; ++i) b->edge();
    b->top->rst = 0;
    for (; cycles > 0; --cycles) b->edge();
    b->busy_until += b->now;
    return b;
}

void board_free(Board* b) { delete b; }

// Goes on for `cycles`, with `count` more bytes for the board. Bytes from it, at most `room`, go to
// `answer`; returns their number.
uint64_t board_run(Board* b, uint64_t cycles, const uint8_t* bytes, uint64_t count,
                   uint8_t* answer, uint64_t room) {
    b->waiting.insert(b->waiting.end(), bytes, bytes + count);
    for (; cycles > 0; --cycles) {
        b->send();
        b->edge();
        b->listen();
    }
    uint64_t found = 0;
    for (; found < room && !b->found.empty(); ++found) {
        answer[found] = b->found.front();
        b->found.pop_front();
    }
    return found;
}

// Whether anything can still happen before the next byte for the board.
int board_busy(Board* b) {
    return b->top->running || b->now < b->busy_until || !b->waiting.empty() || !b->found.empty();
}

uint64_t board_cycles(Board* b) { return b->now; }
}
