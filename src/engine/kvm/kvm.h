/* The engine on /dev/kvm. */
#ifndef ENGINE_KVM_KVM_H
#define ENGINE_KVM_KVM_H

#include "engine/engine.h"

extern const struct engine_ops kvm_engine_ops;

#endif
