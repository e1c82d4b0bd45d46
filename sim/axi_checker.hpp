// Checks one AXI3 port cycle by cycle: the master's rules and the slave's.
//
// The first broken rule is kept with its cycle and address; what follows it would be noise.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>

#include "axi.hpp"

// Name, and what the rule says.
#define TL_AXI_RULES(X) \
    X(AR_RESET, "no ARVALID during reset") \
    X(AR_STABLE, "ARVALID and its payload stay until ARREADY") \
    X(AR_LEN, "a read burst has at most 16 beats and 512 bytes") \
    X(AR_BOUNDARY, "a read burst does not cross 4 KiB") \
    X(AR_ALIGN, "a read address is a multiple of the beat") \
    X(AR_SIZE, "ARSIZE is the width of the port") \
    X(AR_BURST, "ARBURST is INCR") \
    X(AR_OUTSTANDING, "no more reads outstanding than agreed") \
    X(AW_RESET, "no AWVALID during reset") \
    X(AW_STABLE, "AWVALID and its payload stay until AWREADY") \
    X(AW_LEN, "a write burst has at most 16 beats and 512 bytes") \
    X(AW_BOUNDARY, "a write burst does not cross 4 KiB") \
    X(AW_ALIGN, "a write address is a multiple of the beat") \
    X(AW_SIZE, "AWSIZE is the width of the port") \
    X(AW_BURST, "AWBURST is INCR") \
    X(AW_OUTSTANDING, "no more writes outstanding than agreed") \
    X(W_RESET, "no WVALID during reset") \
    X(W_STABLE, "WVALID and its payload stay until WREADY") \
    X(W_LAST, "WLAST is on the last beat that AWLEN names, and only there") \
    X(W_STROBE, "a write beat writes a byte, and none beyond the port") \
    X(W_ID, "WID is the AWID of its burst") \
    X(R_RESET, "no RVALID during reset") \
    X(R_STABLE, "RVALID and its payload stay until RREADY") \
    X(R_UNASKED, "no read data without a read that waits") \
    X(R_LAST, "RLAST is on the last beat that ARLEN names, and only there") \
    X(R_ID, "RID is the ARID of its burst") \
    X(R_RESP, "no EXOKAY: nobody asks for exclusive access") \
    X(R_READY, "the master takes read data before long: it asked for what it has room for") \
    X(B_RESET, "no BVALID during reset") \
    X(B_STABLE, "BVALID and its payload stay until BREADY") \
    X(B_UNASKED, "no acknowledgement before address and last beat of a write") \
    X(B_ID, "BID is the AWID of its burst") \
    X(B_RESP, "no EXOKAY: nobody asks for exclusive access") \
    X(B_READY, "the master takes acknowledgements before long")

namespace tokenloom {

enum AxiRule {
    AXI_FINE = 0,
#define TL_RULE(name, text) RULE_##name,
    TL_AXI_RULES(TL_RULE)
#undef TL_RULE
    AXI_RULES
};

inline const char* axi_rule_name(int rule) {
    static const char* const names[] = {
        "",
#define TL_RULE(name, text) #name,
        TL_AXI_RULES(TL_RULE)
#undef TL_RULE
    };
    return rule >= 0 && rule < AXI_RULES ? names[rule] : "?";
}

inline const char* axi_rule_text(int rule) {
    static const char* const texts[] = {
        "",
#define TL_RULE(name, text) text,
        TL_AXI_RULES(TL_RULE)
#undef TL_RULE
    };
    return rule >= 0 && rule < AXI_RULES ? texts[rule] : "?";
}

class AxiChecker {
public:
    struct Limits {
        int64_t beat_bytes, reads, writes;  // of the port; bursts outstanding
        int64_t patience;                   // cycles for which the master may refuse a response
    };

    int rule = AXI_FINE;
    int64_t cycle_of = 0;
    uint64_t address_of = 0;
    int64_t cycles = 0;

    explicit AxiChecker(const Limits& limits) : limits(limits) {
        while (1 << size < limits.beat_bytes) size++;
    }

    void cycle(const AxiMaster& m, const AxiSlave& s, bool reset = false) {
        cycles++;
        if (reset) {
            if (m.ar.valid) fail(RULE_AR_RESET, m.ar.addr);
            if (m.aw.valid) fail(RULE_AW_RESET, m.aw.addr);
            if (m.w_valid) fail(RULE_W_RESET, 0);
            if (s.r_valid) fail(RULE_R_RESET, 0);
            if (s.b_valid) fail(RULE_B_RESET, 0);
            return;
        }
        // Most cycles of most ports are quiet.
        if (!(m.ar.valid | m.aw.valid | m.w_valid | s.r_valid | s.b_valid | ar_waits | aw_waits |
              w_waits | r_waits | b_waits))
            return;
        if (rule) return;
        address(m.ar, ar_was, ar_waits, RULE_AR_STABLE);
        address(m.aw, aw_was, aw_waits, RULE_AW_STABLE);
        data(m);
        read_response(m, s);
        write_response(m, s);

        // Handshakes. Responses first: none belongs to a request of the same cycle.
        if (s.r_valid && m.r_ready && !reads.empty()) {
            if (s.r_last) reads.pop_front(), r_beat = 0;
            else r_beat++;
        }
        if (s.b_valid && m.b_ready && done) {
            ids.pop_front();
            done--, outstanding_writes--;
        }
        if (m.ar.valid && s.ar_ready) {
            reads.push_back(m.ar);
            if (int64_t(reads.size()) > limits.reads) fail(RULE_AR_OUTSTANDING, m.ar.addr);
        }
        if (m.aw.valid && s.aw_ready) {
            asked.push_back(m.aw);
            ids.push_back(m.aw.id);
            if (++outstanding_writes > limits.writes) fail(RULE_AW_OUTSTANDING, m.aw.addr);
        }
        if (m.w_valid && s.w_ready) {
            beats.push_back({m.w_last, m.w_id});
        }
        join();
        remember(m, s);
    }

private:
    struct Beat {
        uint8_t last, id;
    };

    Limits limits;
    int size = 0;
    AxiAddress ar_was{}, aw_was{};
    AxiMaster master_was{};
    AxiSlave slave_was{};
    bool ar_waits = false, aw_waits = false, w_waits = false, r_waits = false, b_waits = false;
    int64_t r_waited = 0, b_waited = 0, outstanding_writes = 0, done = 0;
    int r_beat = 0, w_beat = 0;
    std::deque<AxiAddress> reads, asked;
    std::deque<uint8_t> ids;
    std::deque<Beat> beats;

    void fail(int which, uint64_t address) {
        if (rule) return;
        rule = which, cycle_of = cycles, address_of = address;
    }

    static bool same(const AxiAddress& a, const AxiAddress& b) {
        return a.valid == b.valid && a.id == b.id && a.len == b.len && a.size == b.size &&
               a.burst == b.burst && a.addr == b.addr;
    }

    // Rules of AR and AW lie at the same distance from their STABLE.
    void address(const AxiAddress& a, const AxiAddress& was, bool waits, int stable) {
        if (waits && !same(a, was)) fail(stable, was.addr);
        if (!a.valid) return;
        uint64_t bytes = (uint64_t(a.len) + 1) * uint64_t(limits.beat_bytes);
        int base = stable - RULE_AR_STABLE;
        if (a.len >= AXI_BURST_BEATS || bytes > AXI_BURST_BYTES) fail(base + RULE_AR_LEN, a.addr);
        if (a.addr / AXI_PAGE != (a.addr + bytes - 1) / AXI_PAGE)
            fail(base + RULE_AR_BOUNDARY, a.addr);
        if (a.addr % uint64_t(limits.beat_bytes)) fail(base + RULE_AR_ALIGN, a.addr);
        if (a.size != size) fail(base + RULE_AR_SIZE, a.addr);
        if (a.burst != INCR) fail(base + RULE_AR_BURST, a.addr);
    }

    // Address of the write to which the next beat belongs, as far as it is known.
    uint64_t write_address() const { return asked.empty() ? 0 : asked.front().addr; }

    void data(const AxiMaster& m) {
        if (w_waits) {
            const AxiMaster& was = master_was;
            if (!m.w_valid || m.w_last != was.w_last || m.w_id != was.w_id ||
                m.w_strobe != was.w_strobe ||
                std::memcmp(m.w_data, was.w_data, size_t(limits.beat_bytes)))
                fail(RULE_W_STABLE, write_address());
        }
        if (!m.w_valid) return;
        uint64_t beyond = limits.beat_bytes < 64 ? m.w_strobe >> limits.beat_bytes : 0;
        if (!m.w_strobe || beyond) fail(RULE_W_STROBE, write_address());
    }

    void read_response(const AxiMaster& m, const AxiSlave& s) {
        uint64_t address = reads.empty() ? 0 : reads.front().addr;
        if (r_waits) {
            const AxiSlave& was = slave_was;
            if (!s.r_valid || s.r_last != was.r_last || s.r_id != was.r_id ||
                s.r_resp != was.r_resp ||
                std::memcmp(s.r_data, was.r_data, size_t(limits.beat_bytes)))
                fail(RULE_R_STABLE, address);
        }
        if (!s.r_valid) return;
        if (reads.empty()) {
            fail(RULE_R_UNASKED, 0);
            return;
        }
        if (bool(s.r_last) != (r_beat == reads.front().len)) fail(RULE_R_LAST, address);
        if (s.r_id != reads.front().id) fail(RULE_R_ID, address);
        if (s.r_resp == EXOKAY) fail(RULE_R_RESP, address);
        r_waited = m.r_ready ? 0 : r_waited + 1;
        if (r_waited > limits.patience) fail(RULE_R_READY, address);
    }

    void write_response(const AxiMaster& m, const AxiSlave& s) {
        if (b_waits) {
            const AxiSlave& was = slave_was;
            if (!s.b_valid || s.b_id != was.b_id || s.b_resp != was.b_resp)
                fail(RULE_B_STABLE, 0);
        }
        if (!s.b_valid) return;
        if (!done) {
            fail(RULE_B_UNASKED, 0);
            return;
        }
        if (s.b_id != ids.front()) fail(RULE_B_ID, 0);
        if (s.b_resp == EXOKAY) fail(RULE_B_RESP, 0);
        b_waited = m.b_ready ? 0 : b_waited + 1;
        if (b_waited > limits.patience) fail(RULE_B_READY, 0);
    }

    // Brings write data and their addresses together; either may come first.
    void join() {
        while (!asked.empty() && !beats.empty()) {
            const AxiAddress& aw = asked.front();
            Beat beat = beats.front();
            beats.pop_front();
            if (bool(beat.last) != (w_beat == aw.len)) fail(RULE_W_LAST, aw.addr);
            if (beat.id != aw.id) fail(RULE_W_ID, aw.addr);
            w_beat++;
            if (beat.last) w_beat = 0, done++, asked.pop_front();
        }
    }

    void remember(const AxiMaster& m, const AxiSlave& s) {
        ar_waits = m.ar.valid && !s.ar_ready;
        aw_waits = m.aw.valid && !s.aw_ready;
        w_waits = m.w_valid && !s.w_ready;
        r_waits = s.r_valid && !m.r_ready;
        b_waits = s.b_valid && !m.b_ready;
        if (ar_waits) ar_was = m.ar;
        if (aw_waits) aw_was = m.aw;
        if (w_waits) master_was = m;
        if (r_waits || b_waits) slave_was = s;
    }
};

}  // namespace tokenloom
