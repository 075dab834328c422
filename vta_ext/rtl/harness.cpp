// Clock, memory and registers around the Verilated machine, behind a C interface.
//
// Memory is the model of the timing simulator: one bus for reads and writes, requests served in
// the order in which they come, a beat a cycle, the first one `latency` cycles after its request
// at the earliest. Each handshake may also be refused at random, from a seed.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "Vmachine.h"
#include "Vmachine___024root.h"
#include "verilated.h"

namespace {

constexpr int kBeat = VTA_BEAT_BYTES;

struct Transaction {
    bool write;
    uint64_t address;
    uint32_t beats;
    uint64_t ready_at;
};

struct WriteBeat {
    uint8_t data[kBeat];
    uint64_t mask;
};

// An instruction of unit 0 (load), 1 (compute) or 2 (store) starts or ends, so many cycles after
// the start of the run.
struct Event {
    uint64_t cycle;
    uint32_t unit;
    uint32_t ends;
};

struct Simulation {
    VerilatedContext context;
    std::unique_ptr<Vmachine> top;
    uint8_t* memory = nullptr;
    uint64_t size = 0;
    uint32_t latency = 100;
    // Chances of a refusal in 256: requests, beats of reads, beats of writes.
    uint32_t refuse_request = 0, refuse_read = 0, refuse_write = 0;
    uint64_t random = 1;
    std::deque<Transaction> bus;
    std::deque<WriteBeat> beats;
    std::vector<Event> events;
    uint64_t now = 0, origin = 0, outside = 0;
    bool written = false, trace = false;

    bool refuse(uint32_t chance) {
        if (chance == 0) return false;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return (random & 255) < chance;
    }

    void edge() {
        top->clk = 1;
        top->eval();
        top->clk = 0;
        ++now;
    }

    void reset() {
        top->rst = 1;
        top->clk = 0;
        top->eval();
        for (int i = 0; i < 2; ++i) edge();
        top->rst = 0;
        bus.clear();
        beats.clear();
        written = false;
    }

    bool inside(uint64_t address) {
        if (address + kBeat <= size) return true;
        ++outside;
        return false;
    }

    // One cycle: inputs, outputs that follow from them, then the edge.
    void cycle() {
        Vmachine& t = *top;
        const bool head = !bus.empty() && now >= bus.front().ready_at;
        const bool reading = head && !bus.front().write && !refuse(refuse_read);
        t.read_requests___05Fready = !refuse(refuse_request);
        t.write_requests___05Fready = !refuse(refuse_request);
        t.write_beats___05Fready = !refuse(refuse_write);
        t.written = written;
        written = false;
        t.read_beats___05Fvalid = reading;
        if (reading) {
            const Transaction& first = bus.front();
            if (inside(first.address)) {
                std::memcpy(&t.read_beats___05Fdata, memory + first.address, kBeat);
            }
            t.read_beats___05Flast = first.beats == 1;
        }
        t.eval();

        if (head && bus.front().write && !beats.empty()) {
            Transaction& first = bus.front();
            const WriteBeat& beat = beats.front();
            for (int i = 0; i < kBeat; ++i) {
                if (!(beat.mask >> i & 1)) continue;
                if (first.address + i < size) memory[first.address + i] = beat.data[i];
                else ++outside;
            }
            beats.pop_front();
            step();
        } else if (reading && t.read_beats___05Fready) {
            step();
        }
        const uint64_t at = now + latency;
        if (t.read_requests___05Fvalid && t.read_requests___05Fready) {
            bus.push_back({false, t.read_requests___05Faddress, t.read_requests___05Fbeats, at});
        }
        if (t.write_requests___05Fvalid && t.write_requests___05Fready) {
            bus.push_back({true, t.write_requests___05Faddress, t.write_requests___05Fbeats, at});
        }
        if (t.write_beats___05Fvalid && t.write_beats___05Fready) {
            WriteBeat beat;
            std::memcpy(beat.data, &t.write_beats___05Fdata, kBeat);
            beat.mask = t.write_beats___05Fmask;
            beats.push_back(beat);
        }
        if (trace) note();
        edge();
    }

    // A beat of the first transaction is through.
    void step() {
        Transaction& first = bus.front();
        first.address += kBeat;
        if (--first.beats == 0) {
            written = first.write;
            bus.pop_front();
        }
    }

    void note() {
        const Vmachine& t = *top;
        const uint64_t at = now - origin;
        if (t.load_ends) events.push_back({at, 0, 1});
        if (t.load_starts) events.push_back({at, 0, 0});
        if (t.compute_ends) events.push_back({at, 1, 1});
        if (t.compute_starts) events.push_back({at, 1, 0});
        if (t.store_ends) events.push_back({at, 2, 1});
        if (t.store_starts) events.push_back({at, 2, 0});
    }
};

struct BufferView {
    void* data;
    uint64_t bytes;
};

}  // namespace

extern "C" {

Simulation* simulation_new() {
    auto* s = new Simulation;
    s->top = std::make_unique<Vmachine>(&s->context);
    s->reset();
    return s;
}

void simulation_free(Simulation* s) { delete s; }

void simulation_reset(Simulation* s) { s->reset(); }

void simulation_memory(Simulation* s, uint8_t* memory, uint64_t size) {
    s->memory = memory;
    s->size = size;
}

void simulation_timing(Simulation* s, uint32_t latency, uint32_t request, uint32_t read,
                       uint32_t write, uint64_t seed) {
    s->latency = latency;
    s->refuse_request = request;
    s->refuse_read = read;
    s->refuse_write = write;
    s->random = seed * 2 + 1;
}

void simulation_write(Simulation* s, uint32_t number, uint32_t value) {
    s->top->address = number;
    s->top->write_word = value;
    s->top->write = 1;
    s->cycle();
    s->top->write = 0;
}

uint32_t simulation_read(Simulation* s, uint32_t number) {
    s->top->address = number;
    s->top->write = 0;
    s->cycle();
    return s->top->read_word;
}

// A run begins in this cycle; with `trace` its events are kept.
void simulation_begin(Simulation* s, int trace) {
    s->events.clear();
    s->trace = trace != 0;
    s->origin = s->now;
}

// Goes on for at most so many cycles; the cycles since the beginning, or -1 while it is running.
int64_t simulation_run(Simulation* s, uint64_t most) {
    for (; s->top->running; --most) {
        if (most == 0) return -1;
        s->cycle();
    }
    s->trace = false;
    return static_cast<int64_t>(s->now - s->origin);
}

// Accesses outside memory since the beginning.
uint64_t simulation_outside(Simulation* s) { return s->outside; }

uint64_t simulation_events(Simulation* s, const Event** events) {
    *events = s->events.data();
    return s->events.size();
}

// The machine's buffers, for tests that set and compare all of its state; micro-ops lie in banks,
// as many as a beat has micro-ops.
int simulation_buffer(Simulation* s, int number, BufferView* view) {
    auto* root = s->top->rootp;
    switch (number) {
#define BUFFER(n, name)                                                 \
    case n:                                                             \
        *view = {&root->vta_machine__DOT__##name##_buffer.m_storage[0], \
                 sizeof(root->vta_machine__DOT__##name##_buffer)};      \
        return 0;
        BUFFER(0, inp)
        BUFFER(1, wgt)
        BUFFER(2, acc)
        BUFFER(3, out)
        BUFFER(4, uop0)
#if VTA_BEAT_BYTES >= 8
        BUFFER(5, uop1)
#endif
#if VTA_BEAT_BYTES >= 16
        BUFFER(6, uop2)
        BUFFER(7, uop3)
#endif
#undef BUFFER
    }
    return 1;
}
}
