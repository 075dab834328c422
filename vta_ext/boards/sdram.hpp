// An SDRAM chip of four banks behind the registers of a board's pins; keeps no times.

#pragma once

#include <array>
#include <cstdint>
#include <vector>

class SdramChip {
public:
    SdramChip(int row_bits, int column_bits, int pin_cycles)
        : column_bits_(column_bits),
          words_(size_t{4} << (row_bits + column_bits)),
          coming_(pin_cycles) {}

    // One cycle with these pins; the word that the board sees in it.
    uint16_t step(bool ras, bool cas, bool we, uint32_t ba, uint32_t a, uint32_t dqm, uint16_t dq) {
        const uint16_t found = coming_[now_];
        coming_[now_] = 0xdead;
        if (ras && !cas && !we) {
            rows_[ba] = a;
        } else if (cas && !ras) {
            uint16_t& word = words_[(rows_[ba] << 2 | ba) << column_bits_ | a];
            const uint16_t keep = (dqm & 1 ? 0xff : 0) | (dqm & 2 ? 0xff00 : 0);
            if (we) {
                word = (word & keep) | (dq & ~keep);
            } else {
                coming_[now_] = word;
            }
        }
        now_ = (now_ + 1) % coming_.size();
        return found;
    }

private:
    int column_bits_;
    std::vector<uint16_t> words_, coming_;
    std::array<uint32_t, 4> rows_{};
    size_t now_ = 0;
};
