"use strict";

// What the links in mails open. The token stands behind the #, so it reached no server on the way here; it is sent when the button is pressed, and not
// before: programs that look at mail open its links, and would use the token up.
(() => {
  const PAGES = {
    "verify-email": {
      title: "Confirm your email address",
      intro: "Press the button to confirm that this address is yours.",
      button: "Confirm the address",
      path: "verify-email",
      done: "The address is confirmed. You can close this page and sign in.",
    },
    "reset-password": {
      title: "Choose a password",
      intro: "It replaces the one that you had before, if any, and ends all your sessions.",
      button: "Save the password",
      path: "password/reset",
      asks: ["password", "again"],
      done: "The password is saved. You can close this page and sign in.",
    },
    "accept-invitation": {
      title: "Accept the invitation",
      intro: "Tell us your name and choose a password.",
      button: "Join",
      path: "register",
      asks: ["full-name", "password", "again"],
      done: "Welcome! Your account is ready. You can close this page and sign in.",
    },
  };
  const LABELS = { password: "password", full_name: "name", email: "address", tenant_slug: "link", token: "link", invitation_token: "link" };

  class Refusal extends Error {}

  const at = (id) => document.getElementById(id);
  const name = location.pathname.replace(/\/+$/, "").split("/").pop();
  const page = PAGES[name];
  const tenant = new URLSearchParams(location.search).get("tenant") ?? "";
  const secrets = new URLSearchParams(location.hash.slice(1));
  const token = secrets.get("token") ?? "";
  const email = secrets.get("email") ?? "";
  // Neither the history nor somebody who looks over a shoulder needs it.
  history.replaceState(null, "", location.pathname + location.search);

  const isComplete = /^[a-z0-9-]{2,63}$/.test(tenant) && token !== "" && (name !== "accept-invitation" || email !== "");

  function show() {
    document.title = page.title;
    at("title").textContent = page.title;
    if (!isComplete) {
      fail("This link is incomplete. Open the whole link of the mail, or copy all of it into the address bar; after a reload of this page, open it again.");
      return;
    }
    at("tenant").textContent = tenant;
    at("intro").textContent = name === "accept-invitation" ? `You are invited to join ${tenant} as ${email}. ${page.intro}` : page.intro;
    at("button").textContent = page.button;
    at("email").value = email;
    for (const id of page.asks ?? []) {
      at(id).required = true;
      at(id).parentElement.hidden = false;
    }
    at("form").hidden = false;
    at("form").addEventListener("submit", submit);
    at("again").addEventListener("input", compare);
    at("password").addEventListener("input", compare);
  }

  function compare() {
    const differs = at("again").required && at("again").value !== at("password").value;
    at("again").setCustomValidity(differs ? "The two passwords differ." : "");
  }

  function body() {
    const password = at("password").value;
    if (name === "verify-email") return { token };
    if (name === "reset-password") return { token, password };
    return { email, password, full_name: at("full-name").value, tenant_slug: tenant, invitation_token: token };
  }

  async function submit(event) {
    event.preventDefault();
    at("alert").replaceChildren();
    at("button").disabled = true;
    at("status").textContent = "One moment …";
    try {
      let answer = await call(page.path, body());
      if (answer.status === 422 && (await answer.clone().json()).code === "captcha_required") {
        answer = await pay();
      }
      if (answer.ok) succeed();
      else fail(...(await explain(answer)));
    } catch (error) {
      fail(error instanceof Refusal ? error.message : "The service cannot be reached. Check your connection, and try again.");
    }
    at("button").disabled = false;
  }

  // Solve what the installation demands, and ask again with it.
  async function pay() {
    if (!window.crypto?.subtle) throw new Refusal("Your browser keeps what this needs to pages with https. Open the link with https, or ask whoever runs the service.");
    const challenge = await call("captcha");
    if (!challenge.ok) return challenge;
    return call(page.path, { ...body(), captcha: await solve(await challenge.json()) });
  }

  function call(path, content) {
    return fetch(`../api/v1/auth/${path}`, {
      method: content ? "POST" : "GET",
      headers: { "Content-Type": "application/json", "X-Tenant-Slug": tenant },
      body: content && JSON.stringify(content),
      credentials: "omit",
      referrerPolicy: "no-referrer",
    });
  }

  // The proof of work that some installations demand of whoever registers: ALTCHA, version 2, with PBKDF2.
  async function solve(challenge) {
    const { nonce, salt, cost, keyLength, keyPrefix } = challenge.parameters;
    const bytes = (hex) => Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16));
    const tried = new Uint8Array([...bytes(nonce), 0, 0, 0, 0]);
    const derivation = { name: "PBKDF2", hash: "SHA-256", salt: bytes(salt), iterations: cost };
    for (let counter = 0; ; counter += 1) {
      new DataView(tried.buffer).setUint32(tried.length - 4, counter);
      const key = await crypto.subtle.importKey("raw", tried, "PBKDF2", false, ["deriveBits"]);
      const derived = new Uint8Array(await crypto.subtle.deriveBits(derivation, key, keyLength * 8));
      const derivedKey = Array.from(derived, (byte) => byte.toString(16).padStart(2, "0")).join("");
      if (derivedKey.startsWith(keyPrefix)) return btoa(JSON.stringify({ challenge, solution: { counter, derivedKey } }));
    }
  }

  async function explain(answer) {
    try {
      const problem = await answer.json();
      const values = (problem.errors ?? []).map(({ loc, msg }) => `${LABELS[loc.at(-1)] ?? loc.at(-1)}: ${msg}`);
      return [problem.detail ?? problem.title, ...values];
    } catch {
      return [`The service answered with an error (${answer.status}). Try again in a minute.`];
    }
  }

  function succeed() {
    at("form").reset();
    at("form").hidden = true;
    at("intro").textContent = "";
    at("status").replaceChildren(note("good", page.done));
    at("title").focus();
  }

  function fail(text, ...values) {
    const box = note("bad", text);
    if (values.length) {
      const list = document.createElement("ul");
      list.append(...values.map((value) => Object.assign(document.createElement("li"), { textContent: value })));
      box.append(list);
    }
    at("status").textContent = "";
    at("alert").replaceChildren(box);
  }

  function note(kind, text) {
    return Object.assign(document.createElement("div"), { className: kind, textContent: text });
  }

  show();
})();
