/* Runs a case: how often, for how long, and what came of it. */
#pragma once

#include "bench.h"

/* One line on standard output: "result case=... ns=... count=... checksum=... elapsed_ns=...", ns per
 * unit being the median of three measurements that take about 'milliseconds' together. With a
 * count other than 0: that many units at once. The checksum is that of the case's check_count. */
void timing_measure(const struct bench_case *bench, unsigned milliseconds, uint64_t count);

/* "check case=... checksum=..." without any time. */
void timing_check(const struct bench_case *bench);
