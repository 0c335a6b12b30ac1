// The layout t1.16x20: five trits to a byte. Its code, and the way to t2.16x16 and back.
//
// A line is 64 bytes: 16 rows by 20 columns. Byte r*4+p holds the codes (trit + 1) c0 to c4
// of row r, columns 4j+p, as the number c0 + 3*c1 + 9*c2 + 27*c3 + 81*c4; 243 to 255 are
// illegal.
//
// Four lines of this layout and five of t2.16x16 hold the same 80 columns, byte for byte: 40
// bits of codes at each of the 64 places. The loops over places are bytes in, bytes out and
// without tables, so that compilers vectorise them. Knows nothing of kernels or threads.
#pragma once

#include <cstdint>
#include <cstring>

namespace bitnet {

constexpr int64_t kDenseCols = 20;                 // columns of a line
constexpr int64_t kTurnCols = 80;                  // columns that are whole lines in both layouts
constexpr int64_t kTurnDense = 4, kTurnPlain = 5;  // and their lines
constexpr int64_t kPlaces = 64;                    // bytes of a line
constexpr uint8_t kDenseZero = 121, kPlainZero = 0x55;  // bytes that are all trit 0
constexpr uint8_t kDenseLargest = 242;

// By byte % 81: the first four codes, two bits each, as a byte of t2.16x16 has them.
struct FourCodes {
  alignas(64) uint8_t of[128];
};
constexpr FourCodes MakeFourCodes() {
  FourCodes t = {};
  for (int v = 0; v < 81; ++v)
    t.of[v] = static_cast<uint8_t>(v % 3 | v / 3 % 3 << 2 | v / 9 % 3 << 4 | v / 27 << 6);
  return t;
}
static constexpr FourCodes kFourCodes = MakeFourCodes();

static inline uint8_t Byte(int v) { return static_cast<uint8_t>(v); }
static inline uint8_t Least(uint8_t a, uint8_t b) { return a < b ? a : b; }
// v % kUnit for v < 3 * kUnit: what is less than nothing wraps to more than v.
template <int kUnit>
static inline uint8_t Rest(uint8_t v) {
  return Least(v, Least(Byte(v - kUnit), Byte(v - 2 * kUnit)));
}

// The five codes at each place of a line. Illegal bytes become trit 0; returns whether there
// was none.
static inline bool CodesOfDense(const uint8_t* line, uint8_t (*codes)[kPlaces]) {
  uint8_t worst = 0;
  for (int i = 0; i < kPlaces; ++i) {
    const uint8_t b = line[i];
    worst = b > worst ? b : worst;
    const uint8_t v81 = b > kDenseLargest ? kDenseZero : b;
    const uint8_t v27 = Rest<81>(v81), v9 = Rest<27>(v27), v3 = Rest<9>(v9), v1 = Rest<3>(v3);
    codes[0][i] = v1;
    codes[1][i] = Byte(Byte(v3 - v1 + 2) >> 2);   // 0, 3 or 6
    codes[2][i] = Byte(Byte(v9 - v3) >> 3);       // 0, 9 or 18
    codes[3][i] = Byte(Byte(v27 - v9 + 10) >> 5);  // 0, 27 or 54
    codes[4][i] = Byte(Byte(v81 - v27) >> 6);     // 0, 81 or 162
  }
  return worst <= kDenseLargest;
}

// One block of 16 rows: `lines` lines of t1.16x20 become `plain_lines` of t2.16x16, not more
// than CeilDiv(lines, 4) * 5. Columns that the block does not have become trit 0. Returns
// whether all bytes were legal.
static inline bool PlainOfDense(const uint8_t* dense, int64_t lines, int64_t plain_lines,
                                uint8_t* plain) {
  bool legal = true;
  for (int64_t l = 0, p = 0; p < plain_lines; l += kTurnDense, p += kTurnPlain) {
    uint8_t codes[kTurnPlain * 4][kPlaces];  // by quad of columns
    for (int64_t d = 0; d < kTurnDense; ++d) {
      if (l + d < lines)
        legal &= CodesOfDense(dense + (l + d) * kPlaces, codes + 5 * d);
      else
        std::memset(codes + 5 * d, 1, 5 * kPlaces);
    }
    for (int64_t d = 0; d < kTurnPlain && p + d < plain_lines; ++d) {
      const uint8_t(*c)[kPlaces] = codes + 4 * d;
      for (int i = 0; i < kPlaces; ++i)
        plain[(p + d) * kPlaces + i] =
            Byte(c[0][i] | c[1][i] << 2 | c[2][i] << 4 | c[3][i] << 6);
    }
  }
  return legal;
}

// The way back: `lines` lines of t1.16x20 from `plain_lines` of t2.16x16. Returns whether no
// code was 3, which is no trit.
static inline bool DenseOfPlain(const uint8_t* plain, int64_t plain_lines, int64_t lines,
                                uint8_t* dense) {
  uint8_t threes = 0;
  for (int64_t l = 0, p = 0; l < lines; l += kTurnDense, p += kTurnPlain) {
    uint8_t codes[kTurnPlain * 4][kPlaces];
    for (int64_t d = 0; d < kTurnPlain; ++d) {
      uint8_t(*c)[kPlaces] = codes + 4 * d;
      for (int i = 0; i < kPlaces; ++i) {
        const uint8_t b = p + d < plain_lines ? plain[(p + d) * kPlaces + i] : kPlainZero;
        threes |= Byte(b & b >> 1 & 0x55);
        c[0][i] = b & 3, c[1][i] = b >> 2 & 3, c[2][i] = b >> 4 & 3, c[3][i] = b >> 6;
      }
    }
    for (int64_t d = 0; d < kTurnDense && l + d < lines; ++d) {
      const uint8_t(*c)[kPlaces] = codes + 5 * d;
      for (int i = 0; i < kPlaces; ++i) {
        uint8_t v = c[4][i];
        for (int j = 3; j >= 0; --j) v = Byte(v + v + v + c[j][i]);
        dense[(l + d) * kPlaces + i] = v;
      }
    }
  }
  return threes == 0;
}

}  // namespace bitnet
