/* The local APIC's timer: one-shot, periodic and TSC-deadline (Intel SDM 3A 10.5.4). The counter runs at 1 GHz. */
#include "base/core/bits.h"
#include "device/irqchip/internal.h"

/* A guest may ask for a period of a nanosecond; it gets what a host thread can serve. */
#define PERIOD_MIN_NS 20000u

static uint32_t timer_mode(const struct lapic *lapic)
{
    return (reg_get(lapic, REG_LVT_TIMER) >> 17) & 3;
}

/* Bits 3, 1 and 0 of the divide register: 2, 4, .. 128, 1. */
static uint64_t divisor(const struct lapic *lapic)
{
    uint32_t divide = reg_get(lapic, REG_TIMER_DIVIDE);
    return 1u << ((((divide & 3) | ((divide & 8) >> 1)) + 1) & 7);
}

/* Lock held, as in all static functions that follow. */
static void timer_arm(struct lapic *lapic, uint64_t deadline_ns)
{
    const struct lapic_host *host = &lapic->set->host;

    if (deadline_ns == UINT64_MAX && lapic->timer_deadline_ns == UINT64_MAX) {
        return;
    }
    lapic->timer_deadline_ns = deadline_ns;
    host->arm_timer(host->ctx, lapic->index, deadline_ns);
}

static void arm_count(struct lapic *lapic, uint32_t count)
{
    const struct lapic_host *host = &lapic->set->host;
    uint64_t period_ns = reg_get(lapic, REG_TIMER_INITIAL) * divisor(lapic);

    lapic->timer_period_ns = MAX(period_ns, (uint64_t)1);
    if (count == 0 || timer_mode(lapic) == TIMER_DEADLINE) {
        timer_arm(lapic, UINT64_MAX);
    } else {
        timer_arm(lapic, host->now_ns(host->ctx) + count * divisor(lapic));
    }
}

static void arm_tsc(struct lapic *lapic, uint64_t tsc_deadline)
{
    const struct lapic_host *host = &lapic->set->host;

    lapic->timer_tsc_deadline = tsc_deadline;
    if (tsc_deadline == 0) {
        timer_arm(lapic, UINT64_MAX);
        return;
    }
    uint64_t tsc = host->tsc(host->ctx, lapic->index);
    uint64_t hz = host->tsc_hz(host->ctx, lapic->index);
    uint64_t wait_ns = 0;
    if (tsc_deadline > tsc && hz != 0) {
        unsigned __int128 wide =
            ((unsigned __int128)(tsc_deadline - tsc) * 1000000000u + (hz - 1)) / hz;
        wait_ns = wide > BIT(61) ? BIT(61) : (uint64_t)wide; /* decades: never */
    }
    timer_arm(lapic, host->now_ns(host->ctx) + wait_ns);
}

static uint32_t count_left(const struct lapic *lapic)
{
    const struct lapic_host *host = &lapic->set->host;

    if (lapic->timer_deadline_ns == UINT64_MAX || timer_mode(lapic) == TIMER_DEADLINE) {
        return 0;
    }
    uint64_t now_ns = host->now_ns(host->ctx);
    uint64_t left_ns = 0;
    if (lapic->timer_deadline_ns > now_ns) {
        left_ns = lapic->timer_deadline_ns - now_ns;
    } else if (timer_mode(lapic) == TIMER_PERIODIC) {
        /* It expired and the host is late: the counter has begun again. */
        uint64_t late_ns = now_ns - lapic->timer_deadline_ns;
        left_ns = lapic->timer_period_ns - late_ns % lapic->timer_period_ns;
    }
    return (uint32_t)MIN(left_ns / divisor(lapic), (uint64_t)UINT32_MAX);
}

void timer_start_count(struct lapic *lapic, uint32_t count)
{
    pthread_mutex_lock(&lapic->timer_lock);
    if (timer_mode(lapic) != TIMER_DEADLINE) {
        reg_set(lapic, REG_TIMER_INITIAL, count);
        arm_count(lapic, count);
    }
    pthread_mutex_unlock(&lapic->timer_lock);
}

uint32_t timer_current_count(struct lapic *lapic)
{
    pthread_mutex_lock(&lapic->timer_lock);
    uint32_t left = count_left(lapic);
    pthread_mutex_unlock(&lapic->timer_lock);
    return left;
}

void timer_set_divide(struct lapic *lapic, uint32_t divide)
{
    pthread_mutex_lock(&lapic->timer_lock);
    uint32_t left = count_left(lapic);
    reg_set(lapic, REG_TIMER_DIVIDE, divide);
    if (left != 0) {
        arm_count(lapic, left);
    }
    pthread_mutex_unlock(&lapic->timer_lock);
}

void timer_stop(struct lapic *lapic)
{
    pthread_mutex_lock(&lapic->timer_lock);
    lapic->timer_tsc_deadline = 0;
    timer_arm(lapic, UINT64_MAX);
    pthread_mutex_unlock(&lapic->timer_lock);
}

void timer_set_tsc_deadline(struct lapic *lapic, uint64_t tsc)
{
    pthread_mutex_lock(&lapic->timer_lock);
    if (timer_mode(lapic) == TIMER_DEADLINE) {
        arm_tsc(lapic, tsc);
    }
    pthread_mutex_unlock(&lapic->timer_lock);
}

uint64_t timer_get_tsc_deadline(struct lapic *lapic)
{
    pthread_mutex_lock(&lapic->timer_lock);
    uint64_t tsc = timer_mode(lapic) == TIMER_DEADLINE ? lapic->timer_tsc_deadline : 0;
    pthread_mutex_unlock(&lapic->timer_lock);
    return tsc;
}

/* Is an interrupt due? Arms what comes next. */
static bool expire(struct lapic *lapic)
{
    const struct lapic_host *host = &lapic->set->host;
    uint64_t now_ns = host->now_ns(host->ctx);

    if (lapic->timer_deadline_ns == UINT64_MAX) {
        return false; /* disarmed meanwhile */
    }
    if (now_ns < lapic->timer_deadline_ns) {
        timer_arm(lapic, lapic->timer_deadline_ns);
        return false;
    }
    if (timer_mode(lapic) == TIMER_DEADLINE) {
        if (host->tsc(host->ctx, lapic->index) < lapic->timer_tsc_deadline) {
            arm_tsc(lapic, lapic->timer_tsc_deadline);
            return false;
        }
        lapic->timer_tsc_deadline = 0;
    }
    if (timer_mode(lapic) == TIMER_PERIODIC) {
        uint64_t period_ns = MAX(lapic->timer_period_ns, (uint64_t)PERIOD_MIN_NS);
        uint64_t missed = (now_ns - lapic->timer_deadline_ns) / period_ns;
        timer_arm(lapic, lapic->timer_deadline_ns + (missed + 1) * period_ns);
    } else {
        timer_arm(lapic, UINT64_MAX);
    }
    return true;
}

void lapic_timer_expired(struct lapic_set *set, uint32_t vcpu)
{
    struct lapic *lapic = &set->lapic[vcpu];

    pthread_mutex_lock(&lapic->timer_lock);
    bool is_due = expire(lapic);
    pthread_mutex_unlock(&lapic->timer_lock);
    if (is_due) {
        lapic_local(lapic, REG_LVT_TIMER);
    }
}

void timer_restore(struct lapic *lapic, uint32_t current_count, uint64_t tsc_deadline)
{
    pthread_mutex_lock(&lapic->timer_lock);
    lapic->timer_tsc_deadline = 0;
    if (timer_mode(lapic) == TIMER_DEADLINE) {
        arm_tsc(lapic, tsc_deadline);
    } else {
        arm_count(lapic, current_count);
    }
    pthread_mutex_unlock(&lapic->timer_lock);
}
