// One memory channel behind an AXI3 port, as nasty as the real thing.
//
// A cycle-based slave: `cycle` takes what the master drives in this clock cycle, finishes the
// handshakes with what the slave drives in the same cycle, and leaves in `out` what it drives in the
// next one. Times inside are femtoseconds, so that a profile does not depend on the port's clock.
//
// A burst's time is fixed when its address is accepted: commands go to banks whose open row may be
// another one, all banks close and wait during a refresh, and the data bus serves one burst after
// the other. Data of a read are those at that moment; a write lands only when it is acknowledged.
// So a master that does not wait for the acknowledgement reads what was there before.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "axi.hpp"

// Figures of a memory, all of them int64; Python has the values (sim/memory.py).
#define TL_MEMORY_FIELDS(X) \
    X(period_fs)        /* of the port's clock */ \
    X(beat_bytes)       /* of the port */ \
    X(unit_fs)          /* on the data bus, for 32 bytes */ \
    X(latency_fs)       /* address accepted to first data, row open */ \
    X(write_fs)         /* data on the bus to acknowledgement */ \
    X(jitter_fs)        /* per burst, uniform from 0 */ \
    X(tail_fs)          /* more for one burst of `tail_every` */ \
    X(tail_every) \
    X(refresh_every_fs) /* 0: never */ \
    X(refresh_fs) \
    X(banks) \
    X(row_bytes) \
    X(activate_fs)      /* open a row */ \
    X(precharge_fs)     /* close one */ \
    X(row_cycle_fs)     /* from one activation of a bank to the next */ \
    X(turnaround_fs)    /* between reads and writes on the data bus */ \
    X(reads)            /* bursts that may wait */ \
    X(writes) \
    X(busy_256)         /* 256ths of the cycles without ready although there is room */ \
    X(error_ppm)        /* bursts with an error response, per million */ \
    X(error_address)    /* a place that answers with errors; -1: none */ \
    X(error_times)      /* ... so often; -1: always */

namespace tokenloom {

struct MemoryTiming {
#define TL_FIELD(name) int64_t name;
    TL_MEMORY_FIELDS(TL_FIELD)
#undef TL_FIELD
};

struct Random {
    uint64_t state;

    explicit Random(uint64_t seed) {
        // splitmix64: neighbouring seeds give unrelated sequences, none of them 0.
        uint64_t z = seed + 0x9E3779B97F4A7C15ull;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        state = (z ^ (z >> 31)) | 1;
    }

    uint64_t next() {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return state * 0x2545F4914F6CDD1Dull >> 16;
    }

    int64_t below(int64_t n) { return n > 0 ? int64_t(next() % uint64_t(n)) : 0; }
};

class MemoryModel {
public:
    struct Counters {
        int64_t reads, writes, read_bytes, written_bytes, read_errors, write_errors;
    };

    AxiSlave out{};
    Counters count{};

    MemoryModel(const MemoryTiming& timing, uint64_t seed, uint8_t* data, uint64_t size)
        : t(timing), random(seed), data(data), size(size), open(size_t(timing.banks)) {
        if (t.refresh_every_fs) phase = random.below(t.refresh_every_fs);
        ready();
    }

    // A place that answers with errors, `times` often (-1: always).
    void fail_at(int64_t address, int64_t times) { t.error_address = address, t.error_times = times; }

    void place(uint8_t* to, uint64_t bytes) { data = to, size = bytes; }

    // Bursts taken and not answered in full.
    int64_t pending() const { return int64_t(reads.size() + addresses.size() + writes.size()); }

    // What the master drives in this cycle in; `out` is what the slave drives in the next.
    void cycle(const AxiMaster& in) {
        if (out.ar_ready && in.ar.valid) accept(in.ar);
        if (out.aw_ready && in.aw.valid) addresses.push_back(in.aw);
        if (out.w_ready && in.w_valid) {
            beats.push_back({});
            WriteBeat& beat = beats.back();
            beat.last = in.w_last, beat.strobe = in.w_strobe;
            std::memcpy(beat.data, in.w_data, size_t(t.beat_bytes));
            if (in.w_last) whole++;
        }
        if (out.r_valid && in.r_ready) {
            out.r_valid = 0;
            if (out.r_last) reads.pop_front(), beat = 0;
            else beat++;
        }
        if (out.b_valid && in.b_ready) out.b_valid = 0, writes.pop_front();
        now += t.period_fs;
        while (!addresses.empty() && whole) write();
        if (!out.r_valid && !reads.empty() && reads.front().at[beat] <= now) {
            const Read& read = reads.front();
            out.r_valid = 1;
            out.r_id = read.id;
            out.r_last = beat == read.len;
            out.r_resp = (read.errors >> beat & 1) ? read.response : uint8_t(OKAY);
            std::memcpy(out.r_data, &read.data[size_t(beat * t.beat_bytes)], size_t(t.beat_bytes));
        }
        if (!out.b_valid && !writes.empty() && writes.front().at <= now) {
            out.b_valid = 1;
            out.b_id = writes.front().id;
            out.b_resp = writes.front().response;
            land(writes.front());
        }
        waiting = in.ar.valid, waiting_w = in.aw.valid || in.w_valid;
        ready();
    }

private:
    struct Read {
        uint8_t id, len, response;
        uint16_t errors;  // beats with an error response
        int64_t at[AXI_BURST_BEATS];
        std::vector<uint8_t> data;
    };

    struct WriteBeat {
        bool last;
        uint64_t strobe;
        uint8_t data[AXI_MOST_BYTES];
    };

    struct Write {
        uint8_t id, response;
        uint64_t addr;
        int64_t at;
        std::vector<WriteBeat> beats;
    };

    struct Bank {
        int64_t row = -1, epoch = -1, activated = INT64_MIN / 2;
    };

    MemoryTiming t;
    Random random;
    uint8_t* data;
    uint64_t size;
    int64_t now = 0, phase = 0, bus = 0;
    bool bus_writes = false, waiting = false, waiting_w = false;
    int beat = 0;
    std::deque<Read> reads;
    std::deque<AxiAddress> addresses;
    std::deque<WriteBeat> beats;  // of write bursts that still lack an address or their end
    int64_t whole = 0;  // write bursts whose data are complete
    std::deque<Write> writes;
    std::vector<Bank> open;

    // Ready is seldom there before valid when the memory is in a bad mood: a master that waits for
    // it would wait forever.
    bool willing(bool asked) {
        if (!t.busy_256) return true;
        return random.below(256) >= (asked ? t.busy_256 : 255);
    }

    void ready() {
        out.ar_ready = int64_t(reads.size()) < t.reads && willing(waiting);
        int64_t held = int64_t(addresses.size() + writes.size());
        out.aw_ready = held < t.writes && willing(waiting_w);
        out.w_ready = whole + int64_t(writes.size()) < t.writes && willing(waiting_w);
    }

    // The first moment from `at` on outside a refresh.
    int64_t awake(int64_t at) const {
        if (!t.refresh_every_fs) return at;
        int64_t since = (at + phase) % t.refresh_every_fs;
        return since < t.refresh_fs ? at + t.refresh_fs - since : at;
    }

    int64_t epoch(int64_t at) const {
        return t.refresh_every_fs ? (at + phase) / t.refresh_every_fs : 0;
    }

    // When the bank can send or take the first data of a burst accepted now.
    int64_t bank(uint64_t addr) {
        int64_t line = int64_t(addr / uint64_t(t.row_bytes));
        Bank& bank = open[size_t(line % t.banks)];
        int64_t row = line / t.banks, at = awake(now + t.latency_fs / 2);
        bool closed = bank.epoch != epoch(at);
        if (closed || bank.row != row) {
            at = std::max(at + (closed ? 0 : t.precharge_fs), bank.activated + t.row_cycle_fs);
            at = awake(at);
            bank = {row, epoch(at), at};
            at += t.activate_fs;
        }
        return awake(at + t.latency_fs - t.latency_fs / 2);
    }

    int64_t jitter() {
        int64_t late = random.below(t.jitter_fs);
        if (t.tail_every && !random.below(t.tail_every)) late += random.below(t.tail_fs);
        return late;
    }

    // The data bus carries `bytes` from `at` on; when they are through.
    int64_t carry(int64_t at, int64_t bytes, bool writing) {
        if (writing != bus_writes) bus += t.turnaround_fs, bus_writes = writing;
        bus = std::max(bus, at);
        for (int64_t left = bytes; left > 0; left -= 32) {
            int64_t from = awake(bus);
            bus = from + t.unit_fs;
            // What a refresh interrupts goes on behind it.
            if (epoch(bus) != epoch(from)) bus += t.refresh_fs;
        }
        return bus;
    }

    // SLVERR or DECERR where this burst is to fail.
    AxiResponse verdict(uint64_t addr, uint64_t bytes) {
        if (addr > size || bytes > size - addr) return DECERR;
        uint64_t bad = uint64_t(t.error_address);
        if (t.error_address >= 0 && bad >= addr && bad - addr < bytes && t.error_times) {
            if (t.error_times > 0) t.error_times--;
            return SLVERR;
        }
        if (t.error_ppm && random.below(1000000) < t.error_ppm)
            return random.below(2) ? SLVERR : DECERR;
        return OKAY;
    }

    void accept(const AxiAddress& ar) {
        int beats = ar.len % AXI_BURST_BEATS + 1;
        uint64_t bytes = uint64_t(beats) * uint64_t(t.beat_bytes);
        reads.emplace_back();
        Read& read = reads.back();
        read.id = ar.id, read.len = uint8_t(beats - 1);
        read.data.resize(bytes);
        read.response = verdict(ar.addr, bytes);
        read.errors = 0;
        bool inside = ar.addr <= size && bytes <= size - ar.addr;
        if (inside) std::memcpy(read.data.data(), data + ar.addr, bytes);
        if (read.response) {
            corrupt(beats, read);
            count.read_errors++;
        }
        int64_t at = bank(ar.addr) + jitter();
        for (int i = 0; i < beats; i++) read.at[i] = carry(at, t.beat_bytes, false);
        count.reads++;
        count.read_bytes += int64_t(bytes);
    }

    // Some beats carry the error and garbage, at least one; all of them where nothing is.
    void corrupt(int beats, Read& read) {
        int first = int(random.below(beats));
        for (int i = 0; i < beats; i++) {
            bool bad = i == first || read.response == DECERR || (i > first && random.below(2));
            if (!bad) continue;
            read.errors |= uint16_t(1 << i);
            for (int64_t j = 0; j < t.beat_bytes; j++)
                read.data[size_t(i * t.beat_bytes + j)] = uint8_t(random.next());
        }
    }

    void write() {
        AxiAddress aw = addresses.front();
        addresses.pop_front();
        writes.emplace_back();
        Write& write = writes.back();
        write.id = aw.id, write.addr = aw.addr;
        bool last = false;
        while (!last) {
            write.beats.push_back(beats.front());
            last = beats.front().last;
            beats.pop_front();
        }
        whole--;
        int64_t bytes = int64_t(write.beats.size()) * t.beat_bytes;
        write.response = verdict(aw.addr, uint64_t(bytes));
        if (write.response) count.write_errors++;
        int64_t done = carry(bank(aw.addr) + jitter(), bytes, true);
        write.at = done + t.write_fs;
        // Acknowledgements come in order.
        if (writes.size() > 1) write.at = std::max(write.at, writes[writes.size() - 2].at);
        count.writes++;
        count.written_bytes += bytes;
    }

    void land(const Write& write) {
        if (write.response == DECERR) return;
        uint64_t addr = write.addr;
        for (const WriteBeat& beat : write.beats) {
            for (int64_t i = 0; i < t.beat_bytes; i++) {
                // A failed write may have been done in part.
                bool lost = write.response && random.below(2);
                if ((beat.strobe >> i & 1) && !lost && addr + uint64_t(i) < size)
                    data[addr + uint64_t(i)] = beat.data[i];
            }
            addr += uint64_t(t.beat_bytes);
        }
    }
};

// Bytes that a reader gets which asks for one burst after the other and always takes them.
inline int64_t linear_reader(const MemoryTiming& timing, uint64_t seed, int64_t cycles,
                             int64_t burst_bytes) {
    std::vector<uint8_t> data(1 << 20);
    MemoryModel model(timing, seed, data.data(), data.size());
    int64_t got = 0;
    AxiMaster in{};
    in.r_ready = 1;
    in.ar.valid = 1;
    in.ar.len = uint8_t(burst_bytes / timing.beat_bytes - 1);
    in.ar.burst = INCR;
    for (int64_t i = 0; i < cycles; i++) {
        bool asked = model.out.ar_ready;
        got += model.out.r_valid ? timing.beat_bytes : 0;
        model.cycle(in);
        if (asked) in.ar.addr = (in.ar.addr + uint64_t(burst_bytes)) % data.size();
    }
    return got;
}

}  // namespace tokenloom
