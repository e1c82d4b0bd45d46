// The signals of one AXI3 port in one clock cycle, as the memory model and the checker see them.
#pragma once

#include <cstdint>

namespace tokenloom {

constexpr int AXI_BURST_BEATS = 16;     // AXI3
constexpr uint64_t AXI_PAGE = 4096;     // no burst crosses a multiple of it
constexpr int AXI_BURST_BYTES = 512;    // one burst of 16 beats on a 256-bit port
constexpr int AXI_MOST_BYTES = 64;      // widest data bus
enum AxiResponse : uint8_t { OKAY = 0, EXOKAY = 1, SLVERR = 2, DECERR = 3 };
enum AxiBurst : uint8_t { FIXED = 0, INCR = 1, WRAP = 2 };

// An address channel; `len` is beats - 1, `size` the logarithm of a beat's bytes.
struct AxiAddress {
    uint8_t valid, id, len, size, burst;
    uint64_t addr;
};

// What the master, the chip, drives.
struct AxiMaster {
    AxiAddress ar, aw;
    uint8_t w_valid, w_last, w_id, r_ready, b_ready;
    uint64_t w_strobe;
    uint8_t w_data[AXI_MOST_BYTES];
};

// What the slave, the memory, drives.
struct AxiSlave {
    uint8_t ar_ready, aw_ready, w_ready;
    uint8_t r_valid, r_id, r_resp, r_last;
    uint8_t b_valid, b_id, b_resp;
    uint8_t r_data[AXI_MOST_BYTES];
};

}  // namespace tokenloom
